"""A fit behind gains aims at what the float model has, in the units that the file has now."""

from __future__ import annotations

import gained_nets
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.probes.reference import reference
from onnx_ocs.reconstruction.find import find_maps
from onnx_ocs.reconstruction.gains import octaves_of
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.reconstruction.pairing import pair_layers
from onnx_ocs.reconstruction.standin import stand_in
from onnx_ocs.regions.find import find_regions


def floats_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float model: no activation quantizers, weights as floats under names of their own."""
    bare = reference(model, find_regions(Graph(model), infer_shapes(model)))
    graph = Graph(bare)
    for n in list(bare.graph.node):
        if n.op_type == "DequantizeLinear" and (value := graph.constant(n.output[0])) is not None:
            bare.graph.initializer.append(numpy_helper.from_array(value, n.output[0]))
            bare.graph.node.remove(n)
    return bare


def maps_of(model: onnx.ModelProto) -> tuple[Graph, list[LinearMap]]:
    graph = Graph(model)
    return graph, [f for f in find_maps(graph) if isinstance(f, LinearMap)]


@pytest.mark.parametrize("name", ["norm", "convs", "grouped", "depthwise", "gated", "gemms"])
@pytest.mark.parametrize("given", [True, False])
def test_priors_and_targets(name: str, given: bool) -> None:
    """Float weights in the file's units are the file's but for rounding; targets have the sources' gains."""
    model = gained_nets.build(name)
    new = gained_nets.given(model)
    graph, layers = maps_of(new)
    octaves = octaves_of(new)
    assert octaves.into and (octaves.out or name == "norm")
    floats = floats_of(model) if given else None
    feeds = [{k: v[:4] for k, v in gained_nets.samples(model).items()}]
    for layer, pair in zip(layers, pair_layers(graph, layers, floats, stand_in(model), feeds), strict=True):
        assert pair is not None and pair.floats is given
        out = octaves.out.get(layer.node.output[0])
        assert (pair.gain is None) == (out is None)
        if out is not None and pair.gain is not None:
            assert np.array_equal(pair.gain, 2.0**out)
        if pair.prior is not None:
            w = layer.matrix(layer.weight.value)
            assert np.sqrt(np.square(pair.prior - w).mean() / np.square(w).mean()) < 0.06
        else:
            assert not given


def test_a_stand_in_that_has_the_gains_needs_no_more() -> None:
    new = gained_nets.given(gained_nets.build("convs"))
    graph, layers = maps_of(new)
    pairs = pair_layers(graph, layers, None, stand_in(new), [])
    assert [p is not None and p.gain is not None and bool(np.all(p.gain == 1)) for p in pairs] == [True, False]


def test_nothing_is_declared() -> None:
    octaves = octaves_of(None)
    assert not octaves.into and not octaves.out
    _, layers = maps_of(gained_nets.build("convs"))
    assert octaves.columns(layers[0], 36) == 1.0 and octaves.rows(layers[0]) is None
