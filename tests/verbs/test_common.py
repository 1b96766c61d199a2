"""What the verbs share: samples to prove on, and entries with errors."""

from __future__ import annotations

import feeds
import numpy as np
import onnx
import zoo

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.verbs.common import (
    VERIFIED_SAMPLES,
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
    assert sample_shapes(SAMPLES) == {"x": [1, 4, 6, 6]}


def test_where_the_ranking_comes_from() -> None:
    assert ranked_by(None).startswith("estimated") and SAMPLES.description in ranked_by(SAMPLES)


def test_errors_are_added_to_new_entries() -> None:
    entries = [{"tensor": "x", "quantizers": ["x_q"]}, {"tensor": "?", "quantizers": ["no such"]}]
    first, second = with_errors(entries, MODEL, None, Context(SAMPLES))
    assert first["error"]["samples"] == 16 and "error" not in second
    assert "error" not in entries[0]
