"""Models in OpenVINO, where it is installed."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import zoo

from onnx_ocs.errors import UserError
from onnx_ocs.runtime.openvino import Compiled
from onnx_ocs.verbs.checks import load

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install '.[runtimes]'")


def test_a_model_runs() -> None:
    model, feed = zoo.build("residual")
    Compiled(model).run({k: v[:1] for k, v in feed.items()})


def test_values_in_side_files_are_taken_along(tmp_path: Path) -> None:
    model, feed = zoo.build("residual")
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    Compiled(load(tmp_path / "m.onnx")).run({k: v[:1] for k, v in feed.items()})


def test_what_does_not_load_or_run_is_told_in_a_line() -> None:
    model, feed = zoo.build("residual")
    name = next(iter(feed))
    with pytest.raises(UserError, match=r"OpenVINO does not run the model: .") as e:
        Compiled(model).run({"nobody": feed[name]})
    assert "\n" not in str(e.value)
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(UserError, match=r"OpenVINO does not load the model: .") as e:
        Compiled(model)
    assert "\n" not in str(e.value)
