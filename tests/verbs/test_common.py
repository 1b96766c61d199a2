"""What the verbs share: samples to prove on, and entries with errors."""

from __future__ import annotations

import feeds
import numpy as np
import onnx
import pytest
import zoo

import onnx_ocs
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.errors import UserError
from onnx_ocs.verbs.common import (
    VERIFIED_SAMPLES,
    first_sample,
    proof_samples,
    ranked_by,
    reference_model,
    sample_shapes,
    with_errors,
)

MODEL = zoo.build("conv_relu_conv")[0]
SAMPLES = open_samples(feeds.inputs(MODEL, 16), MODEL)


def test_random_samples_fill_the_input_quantizer_s_range() -> None:
    found = proof_samples(MODEL, None, 0)
    assert found.count() == VERIFIED_SAMPLES and proof_samples(MODEL, SAMPLES, 0) is SAMPLES
    values = np.concatenate([f["x"] for f in found.batches(1)])
    scale = onnx.numpy_helper.to_array(next(t for t in MODEL.graph.initializer if t.name == "x_scale"))
    assert -3 * 128 * scale < values.min() < -128 * scale, "some are clipped, and others are not"
    assert 127 * scale < values.max() < 3 * 127 * scale and np.mean(np.abs(values) < 127 * scale) > 0.5
    again = np.concatenate([f["x"] for f in proof_samples(MODEL, None, 0).batches(1)])
    other = np.concatenate([f["x"] for f in proof_samples(MODEL, None, 1).batches(1)])
    assert np.array_equal(values, again) and not np.array_equal(values, other)


def test_references() -> None:
    reference, what = reference_model(MODEL, None)
    assert what == "QDQ model without its activation quantizers"
    assert not any(n.op_type == "QuantizeLinear" for n in reference.graph.node)
    floats, what = reference_model(MODEL, MODEL)
    assert floats is MODEL and what == "float model"


def test_shapes_of_one_sample() -> None:
    assert sample_shapes(MODEL, lambda: SAMPLES) == {"x": [1, 4, 6, 6]}


def test_where_the_ranking_comes_from() -> None:
    assert ranked_by(None).startswith("estimated") and SAMPLES.description in ranked_by(SAMPLES)
    assert ranked_by(None, made_before=True) == "a plan that was made before"
    assert ranked_by(SAMPLES, planned="mass").startswith("planned by measured error: mass (")
    assert SAMPLES.count() > 3 and ranked_by(SAMPLES, 3).endswith(", 3 samples)")  # those that a limit leaves


def test_errors_are_added_to_new_entries() -> None:
    entries = [{"tensor": "x", "quantizers": ["x_q"]}, {"tensor": "?", "quantizers": ["no such"]}]
    first, second = with_errors(entries, MODEL, None, Context(SAMPLES))
    assert first["error"]["samples"] == 16 and "error" not in second
    assert "error" not in entries[0]


class Batches:
    """A CalibrationDataReader that gives eight samples at once."""

    def __init__(self, values: np.ndarray) -> None:
        self.parts = iter(np.split(values, len(values) // 8))

    def get_next(self) -> dict[str, np.ndarray] | None:
        part = next(self.parts, None)
        return None if part is None else {"x": part}


def test_batches_are_samples_and_cost_is_one_s() -> None:
    """MACs of one sample: from single samples, from a reader of batches, and without samples."""
    values = feeds.inputs(MODEL, 16)["x"]
    reports = [onnx_ocs.inspect(MODEL, c) for c in ({"x": values}, Batches(values), None)]
    assert len({r["cost"]["macs_before"] for r in reports}) == 1
    assert reports[0]["quality"]["samples"] == reports[1]["quality"]["samples"] == 16
    assert first_sample(MODEL, open_samples(Batches(values), MODEL))["x"].shape == (1, 4, 6, 6)


def test_a_sample_that_is_too_small_is_to_blame() -> None:
    n, x = zoo.image(zoo.Style())
    model = n.model(n.conv(n.qdq(n.op("MaxPool", n.qdq(x), kernel_shape=[5, 5]))))
    for d in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        d.dim_param = "side"
    del model.graph.value_info[:]
    for o in model.graph.output:
        o.type.tensor_type.ClearField("shape")
    small = {"x": np.zeros((4, 4, 3, 3), np.float32)}
    with pytest.raises(UserError, match=r"does not run on the first calibration sample \(x \(1, 4, 3, 3\)\)") as e:
        onnx_ocs.inspect(model, small)
    assert "\n" not in str(e.value)
