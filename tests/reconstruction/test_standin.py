"""What stands in for a float model: of a translated file the same as of the file that it was made from."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from zoo import build, execute

from onnx_ocs.calibration.context import Context
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes.split import Split
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import run_passes
from onnx_ocs.probes.reference import reference
from onnx_ocs.reconstruction.find import find_maps
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.reconstruction.standin import seen_in, stand_in
from onnx_ocs.regions.find import find_regions

CASES = (
    "conv_relu_conv", "three_layers", "none_mid", "residual", "depthwise", "depthwise_multiplier", "conv_transpose",
    "matmul_gelu", "concat_wide", "requantized", "channels_last", "output_integer", "clip_cuts",
)  # fmt: skip


def by(model: onnx.ModelProto, *passes: Any) -> onnx.ModelProto:
    return run_passes(model, list(passes), Context())[0]


def exact(model: onnx.ModelProto) -> onnx.ModelProto:
    return reference(model, find_regions(Graph(model), infer_shapes(model)))


@pytest.mark.parametrize("ratio", [0.5, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_copies_are_undone(name: str, ratio: float) -> None:
    model, feed = build(name)
    wide = by(model, Translate(ratio=ratio))
    before = wide.SerializeToString()
    found = stand_in(wide)
    assert found is not None and wide.SerializeToString() == before != model.SerializeToString()
    for got, wanted in zip(execute(found, feed), execute(exact(model), feed), strict=True):
        got, wanted = got.astype(np.float64), wanted.astype(np.float64)
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


def test_halves_add_up() -> None:
    model, feed = build("conv_relu_conv")
    found = stand_in(by(model, Split(ratio=0.5)))
    assert found is not None
    np.testing.assert_allclose(execute(found, feed)[0], execute(exact(model), feed)[0], rtol=1e-4, atol=1e-5)


def test_a_plain_file_stands_in_as_it_is() -> None:
    model, _ = build("residual")
    found = stand_in(model)
    assert found is not None and found.SerializeToString() == exact(model).SerializeToString()


def test_producers_aim_at_their_own_rows() -> None:
    """Of a translated file's stand-in, where channels need not stand first."""
    wide = by(build("three_layers")[0], Translate(ratio=0.5))
    for model in (build("three_layers")[0], wide):
        graph = Graph(model)
        layers = [f for f in find_maps(graph) if isinstance(f, LinearMap)]
        for old, new in zip(layers, seen_in(layers, model), strict=True):
            assert np.array_equal(new.outputs, old.outputs if old.tie is None else old.rows)
            assert (old.tie is not None) == (model is wide and old.y != "conv3")
