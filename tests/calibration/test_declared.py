"""Files are cut by what they declare as they are by what they hold; `test_samples.py` has what models take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_ocs.calibration.samples import open_samples

Array = np.ndarray[Any, Any]


def model(batch: int | str) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("batch", ["n", 4, 1])
def test_feeds_from_a_number_on_are_those_of_a_whole_reading(tmp_path: Path, batch: int | str, labels: bool) -> None:
    """With labels files of other labels are of another kind; what a fixed batch drops, it drops here too."""
    rng = np.random.default_rng(1)
    for k, rows in enumerate((5, 9, 2, 8)):
        named: dict[str, Array] = {"label": np.arange(rows) if k < 2 else np.zeros((rows, 2))}
        if k == 3:
            named = {"elsewhere": np.zeros(3)}
        np.savez(tmp_path / f"{k}.npz", x=rng.standard_normal((rows, 3)).astype(np.float32), **named)  # type: ignore[arg-type]
    samples = open_samples(str(tmp_path), model(batch), labels=labels)
    for limit in (None, 13):
        whole = list(samples.batches(8, limit))
        assert samples.number(8, limit) == len(whole)
        for first in range(len(whole) + 1):
            got = list(samples.part(first, 99, 8, limit))
            assert [f["x"].tobytes() for f in got] == [f["x"].tobytes() for f in whole[first:]]
            assert [sorted(f.labels) for f in got] == [sorted(f.labels) for f in whole[first:]]
