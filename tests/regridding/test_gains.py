"""Gains are written so that the floats stay what they are, but for weights that are rounded again."""

from __future__ import annotations

import gained_nets
import numpy as np
import onnx
import pytest
import zoo
from onnx import numpy_helper

from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes import Regrid
from onnx_ocs.probes.reference import reference
from onnx_ocs.records.grids import Gains, read_edits
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Region
from onnx_ocs.regridding.gains import gained
from onnx_ocs.regridding.octaves import Chosen
from onnx_ocs.translation.rescale import rescale
from onnx_ocs.verification.verify import verify


def plain(model: onnx.ModelProto) -> np.ndarray:
    """The output without activation quantizers."""
    bare = reference(model, find_regions(Graph(model), infer_shapes(model)))
    return zoo.execute(bare, gained_nets.samples(model, 4))[0]


def all_with(model: onnx.ModelProto, octaves: int) -> onnx.ModelProto:
    chosen = [Chosen(a, np.full(a.channels, octaves), 2.0) for a in gained_nets.absorbers(model)]
    new, done = gained(model, chosen, Regrid(), {})
    assert len(done) == 1
    return new


@pytest.mark.parametrize("name", gained_nets.NETS)
def test_the_same_gain_for_all_is_another_step(name: str) -> None:
    """No weight is rounded: the floats are the same to the last bit, and no integer of a weight has changed."""
    model = gained_nets.build(name)
    new = all_with(model, 3)
    assert np.array_equal(plain(model), plain(new))
    stored = [{t.data_type: t for t in m.graph.initializer if t.name.startswith("conv2_w")} for m in (model, new)]
    assert stored[0].keys() == stored[1].keys()


@pytest.mark.parametrize("name", gained_nets.NETS)
def test_the_same_function(name: str) -> None:
    model = gained_nets.build(name)
    before, after = plain(model), plain(gained_nets.given(model))
    error = np.sqrt(np.mean((after - before) ** 2) / np.mean(before**2))
    assert error < (1e-4 if name == "depthwise" else 0.06), "rounding of weights, or of a bias, alone"


def test_a_division_that_is_not_exact_is_refused() -> None:
    """A bias or a vector near the end of the floats would lose bits."""
    model = gained_nets.build("vectors")
    for t in model.graph.initializer:
        if t.name == "beta":
            value = numpy_helper.to_array(t).copy()
            value[0] = 1e-38
            t.CopyFrom(numpy_helper.from_array(value, "beta"))
    (a,) = gained_nets.absorbers(model)
    new, done = gained(model, [Chosen(a, np.full(24, -6), 2.0)], Regrid(), {})
    assert not done and not read_edits(new)


def test_declared() -> None:
    new = gained_nets.given(gained_nets.build("convs"))
    (edit,) = read_edits(new)
    assert isinstance(edit, Gains)
    assert edit.sources == (("conv1", 1), ("conv1", 2)) and edit.layers == ("conv2",) and len(edit.octaves) == 16


def test_weights_keep_to_the_range_that_they_use() -> None:
    """Four bits in an int8: no integer leaves -7..7."""
    model = gained_nets._convs(zoo.Style(bias="float", opset=21, dtype="int8", weight="clip"))
    assert not gained_nets.absorbers(model), "a Clip of the weight is not followed"
    model = gained_nets.build("convs")
    for t in model.graph.initializer:
        if t.name == "conv2_w":
            t.CopyFrom(numpy_helper.from_array(np.clip(numpy_helper.to_array(t) // 16, -7, 7), t.name))
    new = gained_nets.given(model)
    read = [numpy_helper.to_array(t) for t in new.graph.initializer if t.data_type == 3 and len(t.dims) == 4]
    assert {int(np.abs(w).max()) for w in read} == {7, 127}


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("name", ["convs", "grouped", "gemms"])
def test_a_step_that_moves_before_and_behind_gains(name: str, given: bool) -> None:
    """A bias of integers is made from what the original holds: by the gains first, by the steps then."""
    model = gained_nets.build(name)
    for t in model.graph.initializer:
        if t.data_type == onnx.TensorProto.INT32:
            odd = np.arange(numpy_helper.to_array(t).size, dtype=np.int32) * 2 + 1
            t.CopyFrom(numpy_helper.from_array(odd, t.name))
    first = Graph(model) if given else None
    (a,) = gained_nets.absorbers(model)
    new, (before, behind) = onnx.ModelProto(), (7.0, 0.3)
    new.CopyFrom(model)
    verdicts = []
    for factor in (before, None, behind):
        if factor is None:
            octaves = np.random.default_rng(0).integers(-3, 4, a.channels)
            new, done = gained(new, [Chosen(a, octaves, 2.0)], Regrid(), {}, first)
            assert done
        else:
            graph = EditableGraph(new)
            region = next(r for r in find_regions(graph, infer_shapes(new)) if r.key == a.region.key)
            assert isinstance(region, Region)
            rescale(graph, region, region.quantizer.scale * factor, first)
            graph.commit(lambda n: None)
        verdicts.append(not verify(model, new, random_samples(model, 2, 0), 2).failures)
    assert all(verdicts) if given else not all(verdicts)


@pytest.mark.parametrize("axis", [1, -1])
def test_weights_without_a_zero_point(axis: int) -> None:
    """Nothing says that they have a sign but their type."""
    net = zoo.Net(gained_nets.FLOAT, x=(5, 24))
    y = net.op("Mul", "x", net.const("gamma", np.linspace(0.1, 2, 24)))
    w = net.const("w", net.rng.integers(-31, 32, (24, 16)) * 4, np.int8)
    w = net.op("DequantizeLinear", w, net.const("w_scale", np.linspace(0.01, 0.02, 16)), axis=axis)
    model = net.model(net.op("MatMul", net.qdq(y, "mid", 1.0), w))
    new = gained_nets.given(model)
    assert not verify(model, new, random_samples(model, 1, 0), 1).failures
    before, after = plain(model), plain(new)
    assert np.sqrt(np.mean((after - before) ** 2) / np.mean(before**2)) < 0.06
