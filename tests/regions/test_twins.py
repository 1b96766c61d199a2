"""Layers of the float model, known again by their weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import tiny
from tiny import node

from onnx_ocs.regions.twins import Twins

RNG = np.random.default_rng(1)
A, B = (RNG.normal(0, 1, (6, 3, 3, 3)).astype(np.float32) for _ in range(2))
GAIN = RNG.uniform(0.3, 3, (6, 1, 1, 1)).astype(np.float32)


def floats(**more: Any) -> Twins:
    nodes = [node("Conv", "x a", "c1"), node("Mul", "c1 g", "m"), node("Relu", "m", "r1")]
    nodes += [node("Conv", "x b", "c2"), node("Clip", "c2", "r2"), node("Add", "r1 r2", "y")]
    return Twins(tiny.model(nodes, {"a": A, "b": B, "g": np.float32(2), **more}))


def test_found_whatever_was_folded_into_the_rows() -> None:
    noise = RNG.normal(0, 0.05, A.shape).astype(np.float32)
    g = tiny.graph([node("Conv", "x w", "y")], {"w": A * GAIN + noise})
    assert [n.output[0] for n in floats().of(g, g.nodes[0])] == ["c1"]


def test_not_found_or_several() -> None:
    g = tiny.graph([node("Conv", "x w", "y")], {"w": np.ones_like(A)})
    assert floats().of(g, g.nodes[0]) == []
    g = tiny.graph([node("Conv", "x w", "y")], {"w": A})
    assert len(floats(b=A * 2).of(g, g.nodes[0])) == 2
    g = tiny.graph([node("Relu", "x", "y")])
    assert floats().of(g, g.nodes[0]) == []


def test_what_stands_behind() -> None:
    twins = floats()
    first, _, _, second, *_ = twins.graph.nodes
    assert {n.op_type for n in (twins.behind(first), twins.behind(second)) if n is not None} == {"Relu", "Clip"}
    assert twins.behind(twins.graph.producer["y"]) is None
