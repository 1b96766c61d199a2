"""Models in OpenVINO, where it is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import zoo

from onnx_ocs.errors import UserError
from onnx_ocs.runtime.openvino import Compiled
from onnx_ocs.verbs.checks import load

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install '.[runtimes]'")


def test_outputs_have_their_names() -> None:
    """Labels and the like may be fed along; outputs are those of onnxruntime, in any order that the graph has."""
    n = zoo.Net(zoo.Style(), x=(4, 6, 6))
    ends = {op: n.op(op, "x") for op in ("Neg", "Relu", "Abs")}
    model = n.model(ends["Relu"], ends["Neg"], ends["Abs"])
    x = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)
    found = Compiled(model).run({"x": x, "label": np.zeros(1)})
    assert list(found) == [o.name for o in model.graph.output]
    for op, f in (("Neg", np.negative), ("Relu", lambda v: np.maximum(v, 0)), ("Abs", np.abs)):
        np.testing.assert_array_equal(found[ends[op]], f(x))


def test_quantized_models_compute_about_what_onnxruntime_does() -> None:
    model, feed = zoo.build("residual")
    one = {k: v[:1] for k, v in feed.items()}
    (there,), (here,) = Compiled(model).run(one).values(), zoo.execute(model, one)
    np.testing.assert_allclose(there, here, atol=0.05 * np.abs(here).max())


def test_inputs_that_nothing_reads_are_not_fed() -> None:
    n = zoo.Net(zoo.Style(), x=(4, 6, 6))
    model = n.model(n.op("Neg", "x"))
    model.graph.input.append(onnx.helper.make_tensor_value_info("u", onnx.TensorProto.FLOAT, [1]))
    x = np.ones((1, 4, 6, 6), np.float32)
    compiled = Compiled(model)
    assert compiled.inputs == ["x"]
    (y,) = compiled.run({"x": x, "u": np.zeros(1, np.float32)}).values()
    np.testing.assert_array_equal(y, -x)


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
    assert "\n" not in str(e.value) and "Exception from" not in str(e.value)
