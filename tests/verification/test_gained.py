"""The yardstick of gains finds every gain that is not taken in by all, and every weight that does not follow."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import gained_nets
import mutations
import numpy as np
import onnx
import pytest
import zoo

from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.records.grids import GRIDS
from onnx_ocs.regridding import absorb, gains
from onnx_ocs.regridding.absorb import Operand
from onnx_ocs.verification.verify import verify

Model = onnx.ModelProto
Patch = pytest.MonkeyPatch


def failures(original: Model, new: Model) -> list[str]:
    return verify(original, new, random_samples(original, 2, 0), 1).failures


def declared(new: Model) -> list[dict[str, object]]:
    return [e for p in new.metadata_props if p.key == GRIDS for e in json.loads(p.value)]


def redeclared(new: Model, **other: object) -> Model:
    bad = mutations.copy_of(new)
    for p in bad.metadata_props:
        if p.key == GRIDS:
            p.value = json.dumps([{**e, **other} for e in json.loads(p.value)])
    return bad


@pytest.mark.parametrize("name", gained_nets.NETS)
def test_one_octave_more_or_less_is_found(name: str) -> None:
    original = gained_nets.build(name)
    new = gained_nets.given(original)
    (entry,) = declared(new)
    octaves = entry["octaves"]
    assert isinstance(octaves, list)
    for k in (0, len(octaves) // 2, -1):
        for by in (-1, 1):
            other = [*octaves]
            other[k] += by
            assert failures(original, redeclared(new, octaves=other))
    assert failures(original, redeclared(new, octaves=octaves[:-1]))
    assert failures(original, redeclared(new, octaves=[31, *octaves[1:]]))


def test_who_takes_them_in_must_be_declared() -> None:
    original = gained_nets.build("vectors")
    new = gained_nets.given(original)
    (entry,) = declared(new)
    sources = entry["sources"]
    assert isinstance(sources, list) and len(sources) == 2
    for wrong in (sources[:1], sources[1:], [*sources, sources[0]], [["matmul1", 1], *sources]):
        assert failures(original, redeclared(new, sources=wrong))


@pytest.mark.parametrize("where", ["tensor", "between", "dequantized", "output"])
def test_another_reader_is_found(where: str) -> None:
    """Somebody who reads a channel with its gain, and does not divide, would compute something else."""
    original = gained_nets.build("vectors")
    for model in (original, new := gained_nets.given(original)):
        graph, y = model.graph, model.graph.output[0]
        read = {"tensor": "add1", "between": "mul1", "dequantized": "add1_dq", "output": "add1"}[where]
        shape = onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, ["N", 5, 24])
        if where == "output":
            shape.name = read
        else:
            graph.node.append(onnx.helper.make_node("Relu", [read], ["more"], name="more"))
        graph.output.append(shape)
        assert y.name
    assert failures(original, new)


@pytest.mark.parametrize("name", ["residual", "gelu"])
def test_a_product_must_be_declared(name: str) -> None:
    original = gained_nets.build(name)
    new = gained_nets.given(original)
    (entry,) = declared(new)
    product = entry["product"]
    assert isinstance(product, list)
    tensor = next(n.input[0] for n in original.graph.node if n.output[0] in entry["quantized"])  # type: ignore[operator]
    for wrong in (None, ["other", product[1]], [product[0], tensor], [product[0], ""]):
        assert failures(original, redeclared(new, product=wrong)), wrong
    assert failures(original, redeclared(new, sources=[[tensor, 1]]))
    assert failures(original, redeclared(new, quantized=[]))


# ---- a rewriter that makes mistakes ---------------------------------------------------------------------------------


def weight_stays(patch: Patch) -> None:
    real = gains._along
    patch.setattr(gains, "_along", lambda values, layer, rank: np.ones_like(real(values, layer, rank)))


def steps_stay(patch: Patch) -> None:
    patch.setattr(gains, "_scale", lambda *_: None)


def bias_stays(patch: Patch) -> None:
    patch.setattr(gains, "_tied", lambda *_: None)


def truncated(patch: Patch) -> None:
    """Weights are cut off, not rounded."""
    real = gains._write

    def write(graph: EditableGraph, layer: object, d: gains._Divided) -> None:
        value = d.value - (d.value > 3).astype(d.value.dtype)
        real(graph, layer, gains._Divided(value, d.factors, d.bias))  # type: ignore[arg-type]

    patch.setattr(gains, "_write", write)


def one_source(patch: Patch) -> None:
    """The bias of a normalization or a layer keeps its size, though it is declared."""
    real = gains.scale_channels

    def scale(graph: EditableGraph, node: onnx.NodeProto, index: int, axis: int, factors: np.ndarray) -> None:
        if index != 2:
            real(graph, node, index, axis, factors)

    patch.setattr(gains, "scale_channels", scale)


def bias_forgotten(patch: Patch) -> None:
    """The same, and not declared."""
    real: Callable[..., list[Operand]] = absorb._layer
    patch.setattr(absorb, "_layer", lambda *a: real(*a)[:1])


def neighbour(patch: Patch) -> None:
    """Each channel gets the gain of the one before."""
    real = gains.scale_channels
    patch.setattr(gains, "scale_channels", lambda g, n, k, a, f: real(g, n, k, a, np.roll(f, 1)))


def other_reader(patch: Patch) -> None:
    """Somebody else reads the tensor, and is not looked at."""
    patch.setattr(absorb, "_alone", lambda *_: True)


def others_forgotten(patch: Patch) -> None:
    """The residual sum reads the tensor with its gains."""
    real = gains._insert
    patch.setattr(gains, "_insert", lambda graph, a, factors: real(graph, replace(a, others=()), factors))


def other_factor(patch: Patch) -> None:
    real = EditableGraph.add_initializer

    def add(self: EditableGraph, name: str, value: np.ndarray) -> str:
        return real(self, name, value * np.float32(2) if name.endswith("_gain") else value)

    patch.setattr(EditableGraph, "add_initializer", add)


def other_tensor(patch: Patch) -> None:
    """The product reads something else."""
    real = EditableGraph.add_node

    def add(self: EditableGraph, op: str, inputs: list[str], output: str) -> str:
        return real(self, op, ["x", inputs[1]], output)

    patch.setattr(EditableGraph, "add_node", add)


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("residual", others_forgotten),
        ("residual", other_factor),
        ("residual", other_tensor),
        ("residual", weight_stays),
        ("gelu", other_factor),
        ("gelu", steps_stay),
        ("three pairs", neighbour),
        ("three pairs", weight_stays),
        ("convs", weight_stays),
        ("convs", steps_stay),
        ("convs", bias_stays),
        ("convs", truncated),
        ("convs", one_source),
        ("convs", bias_forgotten),
        ("convs", neighbour),
        ("convs, float weights", weight_stays),
        ("convs, float weights", steps_stay),
        ("convs, weights of uint8", truncated),
        ("grouped", weight_stays),
        ("depthwise", weight_stays),
        ("norm", weight_stays),
        ("norm", steps_stay),
        ("norm", one_source),
        ("norm", neighbour),
        ("gemms", bias_stays),
        ("gemms", truncated),
        ("gated", neighbour),
    ],
)
def test_mistakes_are_found(name: str, mistake: Callable[[Patch], None], monkeypatch: Patch) -> None:
    original = gained_nets.build(name)
    good = gained_nets.given(original)
    mistake(monkeypatch)
    bad = gained_nets.given(original)
    assert bad.SerializeToString() != good.SerializeToString(), "the mistake was not made"
    assert failures(original, bad)


def test_a_second_reader_is_a_mistake(monkeypatch: Patch) -> None:
    original = gained_nets.build("vectors")
    original.graph.node.append(onnx.helper.make_node("Relu", ["mul1"], ["more"], name="more"))
    original.graph.output.append(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, ["N", 5, 24]))
    assert not gained_nets.absorbers(original, paid=False)
    other_reader(monkeypatch)
    assert failures(original, gained_nets.given(original))


def test_a_pool_over_the_channels_is_found(monkeypatch: Patch) -> None:
    """The last axis is the channels' in front of a MatMul, and a pool goes over it."""
    net = zoo.Net(gained_nets.FLOAT, x=(5, 8))
    y = net.op("Mul", "x", net.const("gamma", np.arange(1.0, 9.0)))
    model = net.model(net.matmul(net.qdq(net.op("MaxPool", y, kernel_shape=[3], pads=[1, 1]), "mid"), 8))
    monkeypatch.setattr(absorb, "HOMOGENEOUS", absorb.HOMOGENEOUS + absorb.POOLS)
    assert gained_nets.absorbers(model, paid=False)
    assert failures(model, gained_nets.given(model))


def test_a_term_with_fewer_axes_is_found(monkeypatch: Patch) -> None:
    """The second axis of a normalization is another one of what a constant with more axes makes of it."""
    net = zoo.Net(gained_nets.FLOAT, x=(3, 8))  # of three samples
    y = net.op("InstanceNormalization", "x", *(net.const(k, np.full(3, 0.5)) for k in ("gamma", "beta")))
    y = net.op("Mul", y, net.const("half", np.full((1, 1, 1, 1), 0.5)))
    w, _ = net.weight("w", net.draw(4, 3, 1, 1, fan=3))
    model = net.model(net.op("Conv", net.qdq(y, "mid"), w))
    real = absorb._sources
    monkeypatch.setattr(absorb, "_sources", lambda *a: real(*a[:-1], True))
    assert gained_nets.absorbers(model, paid=False)
    assert failures(model, gained_nets.given(model))


@pytest.mark.parametrize("name", ["norm", "residual"])
def test_other_values_behind_a_quantizer_are_found(name: str) -> None:
    """A DequantizeLinear with a zero-point of its own adds to each channel, which no gain is multiplied with."""
    original = gained_nets.build(name)
    new = gained_nets.given(original)
    for model in (original, new):
        dq = next(n for n in model.graph.node if n.output[0] == "layernormalization1_dq")
        dq.input[2] = "other_zero"
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(5, np.int8), "other_zero"))
    assert any("other values" in f for f in failures(original, new))
