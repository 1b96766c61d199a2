"""The gains that are chosen: they bring small channels onto the grid, and do not cost the weights more than that."""

from __future__ import annotations

import gained_nets
import numpy as np
import onnx
import pytest
import zoo

from onnx_ocs.model.graph import Graph
from onnx_ocs.passes import Regrid
from onnx_ocs.regridding.absorb import Absorbing
from onnx_ocs.regridding.gains import gained
from onnx_ocs.regridding.octaves import LEAST, MOST, Chosen, Seen, _grown, _weights, choose, look


def seen_in(model: onnx.ModelProto) -> tuple[Absorbing, Seen]:
    (a,) = gained_nets.absorbers(model)
    bare = onnx.ModelProto.FromString(model.SerializeToString())
    bare.graph.output.append(onnx.ValueInfoProto(name=a.region.tensor))
    value = zoo.execute(bare, gained_nets.samples(model))[-1]
    return a, look([(a.region.tensor, v[None]) for v in value], {a.region.tensor: a})[a.region.tensor]


@pytest.mark.parametrize("name", ["norm", "convs", "depthwise", "gated"])
def test_large_channels_get_less_than_small_ones(name: str) -> None:
    model = gained_nets.build(name)
    a, seen = seen_in(model)
    chosen = choose(Graph(model), a, seen)
    assert chosen is not None and chosen.smaller > 2
    assert np.corrcoef(chosen.octaves, np.log2(seen.largest))[0, 1] < -0.7
    assert chosen.octaves.min() >= LEAST and chosen.octaves.max() <= MOST


def test_even_channels_get_none() -> None:
    net = zoo.Net(gained_nets.FLOAT, x=(5, 24))
    y = net.op("Mul", net.const("ones", np.ones(24)), "x")
    model = net.model(net.matmul(net.qdq(y, "mid", 1.0), 16))
    a, seen = seen_in(model)
    assert choose(Graph(model), a, seen) is None


def test_the_error_is_that_of_the_rounding() -> None:
    """At no octaves: what a quantizer leaves; at one more: what one of half the step leaves."""
    a, _ = seen_in(gained_nets.build("norm"))
    q = a.region.quantizer
    x = np.random.default_rng(0).standard_normal((24, 40)).astype(np.float32)
    seen = Seen.nothing(24)
    seen.add(x, q)
    for octave in (0, 1, -2):
        step = float(q.scale) / 2.0**octave
        back = np.clip(np.rint(x / np.float32(step)), -128, 127) * step
        assert seen.error[octave - LEAST] == pytest.approx(((back - x) ** 2).sum(1), rel=1e-3)
    assert seen.count == 40 and seen.square == pytest.approx((x**2).sum(1), rel=1e-4)


def test_values_that_are_none_are_left_out() -> None:
    a, _ = seen_in(gained_nets.build("norm"))
    bad = np.full((1, 5, 24), np.nan, np.float32)
    assert not look([("layernormalization1", bad), ("layernormalization1", bad[..., :3])], {"layernormalization1": a})


@pytest.mark.parametrize("groups", [1, 4, 16])
@pytest.mark.parametrize("per_channel", [False, True])
def test_steps_grow_as_they_are_said_to(groups: int, per_channel: bool) -> None:
    """One step for all outputs grows by what the worst of them needs."""
    net = zoo.Net(zoo.Style(bias="none", opset=21, dtype="int8", per_channel=per_channel), x=(16, 4, 4))
    gamma = net.const("gamma", 2.0 ** np.linspace(-6, 1, 16).reshape(16, 1, 1))
    original = net.model(net.conv(net.qdq(net.op("Mul", "x", gamma), "mid", 1.0), groups=groups, out=16))
    (a,) = gained_nets.absorbers(original)
    octaves = np.random.default_rng(0).integers(-3, 4, 16)
    new, done = gained(original, [Chosen(a, octaves, 2.0)], Regrid(), {})
    steps = [layer.weight.quantizer(Graph(m)) for m in (original, new) for layer in gained_nets.absorbers(m)[0].layers]
    before, after = (q.scale for q in steps if q is not None)
    said = [_grown(w, octaves) for w in _weights(Graph(original), a) if w.step.size]
    assert done
    if per_channel:
        assert bool(said) == (groups < 16)  # depthwise ones follow exactly
        grown = np.log2(after / before)
        near = np.concatenate(said) if said else grown
        assert np.all(np.abs(near - grown) <= 1)  # no weight but the layer's largest fills its range
    else:
        assert np.all(np.concatenate(said) == np.log2(after / before))


def test_what_saturates_as_a_relu_is_no_error() -> None:
    a, _ = seen_in(gained_nets.build("convs, uint8"))
    q = a.region.quantizer
    assert q.rectifies
    x = np.random.default_rng(0).standard_normal((16, 40)).astype(np.float32)
    both, above = Seen.nothing(16), Seen.nothing(16)
    both.add(x, q)
    above.add(np.maximum(x, 0), q)
    assert np.array_equal(both.error, above.error) and np.array_equal(both.square, above.square)
