"""From trained parameters back to a file: what is written is what was trained, ties hold, all else stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from zoo import build, execute

from onnx_ocs.calibration.context import Context
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import run_passes
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.reconstruction.trainable import find_trainable
from onnx_ocs.records.layouts import SCALE, read_layouts, read_scales
from onnx_ocs.records.weights import digest, read_refitted
from onnx_ocs.runtime.instrument import expose

torch = pytest.importorskip("torch")
from onnx_ocs.reconstruction.interpreter import (  # noqa: E402
    Network,
    tensor,
)
from onnx_ocs.reconstruction.outcome import written  # noqa: E402
from onnx_ocs.reconstruction.parameters import Parameters  # noqa: E402

MODELS = Path(__file__).resolve().parents[2] / "models"
CALIB, LOW = MODELS / "digits.calib.npz", MODELS / "digits.w8a2.onnx"
DIALECTS = [
    "bias_int32", "bias_int8", "bias_none", "bias_int32_gemm_alpha", "bias_int32_transposed", "weight_fake",
    "weight_fake_gemm", "weight_clip", "weight_clip_transposed", "weight_uint8", "weight_int4", "weight_constant",
    "per_tensor", "contrib", "qcdq2", "residual", "concat_grouped", "attention", "shared_parameters", "listed_inputs",
    "zero_vector", "bias_int32_depthwise", "small_gelu", "resize_requantized", "opset13",
]  # fmt: skip


def pixels() -> np.ndarray:
    with np.load(CALIB) as z:
        return z["pixels"]


def translated() -> onnx.ModelProto:
    return run_passes(onnx.load(LOW), [Translate(0.5, 1, "early")], Context())[0]


def constants(model: onnx.ModelProto) -> dict[str, bytes]:
    found = {t.name: t.SerializeToString(deterministic=True) for t in model.graph.initializer}
    for n in model.graph.node:
        if n.op_type == "Constant":
            found[n.output[0]] = n.attribute[0].SerializeToString(deterministic=True)
    return found


def shaken(model: onnx.ModelProto, seed: int = 0) -> tuple[onnx.ModelProto, Parameters, Any, Graph]:
    """A model with every parameter moved a little at random, and these parameters."""
    graph, rng = EditableGraph(model), torch.Generator().manual_seed(seed)
    parts = find_trainable(graph)
    p = Parameters(graph, parts)
    for kind, group in p.groups().items():
        for x in group:
            size = 0.1 if kind in ("scales", "steps") else 0.3 * float(x.abs().mean()) + 0.4
            x += size * (2 * torch.rand(x.shape, generator=rng) - 1)
    return written(model, parts, p)[0], p, parts, graph


@pytest.mark.parametrize("name", DIALECTS)
def test_what_is_written_is_what_was_trained(name: str) -> None:
    """Of every dialect: torch with the parameters computes what onnxruntime computes from the file."""
    model, feed = build(name)
    before = model.SerializeToString(deterministic=True)
    new, p, parts, graph = shaken(model)
    assert parts.layers and model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(new, full_check=True)
    with torch.no_grad():
        got = Network(graph, parts.roots, parts.ceilings).run({k: tensor(v) for k, v in feed.items()}, *p.values())
    old = execute(model, feed)
    for value, wanted, was in zip(got.values(), execute(new, feed), old, strict=True):
        exact = wanted.astype(np.float64)
        if np.array_equal(wanted, was):  # nothing trained lies in front of it
            continue
        error = float(((value.numpy() - exact) ** 2).sum() / (exact**2).sum())
        change = float(((was.astype(np.float64) - exact) ** 2).sum() / (exact**2).sum())
        assert error < 1e-3 and error < change / 20
    _only_what_is_declared(model, new)


def _copied(before: Graph, graph: Graph, name: str) -> bool:
    """Whether a constant is a copy, under its own name, of one that was there: a changed step's, for a cloned bias."""
    value = graph.constant(name)
    assert value is not None
    known = (before.constant(t) for t in before.initializers) if name not in before.initializers else ()
    return any(v is not None and v.dtype == value.dtype and v.tobytes() == value.tobytes() for v in known)


def _only_what_is_declared(model: onnx.ModelProto, new: onnx.ModelProto) -> None:
    """Other constants are byte for byte the same; declared ones have their digest, and integers within the range."""
    declared, old, now = read_refitted(new), constants(model), constants(new)
    graph, before = EditableGraph(new), EditableGraph(model)
    steps = {n.input[1] for n in new.graph.node if any(p.key == SCALE for p in n.metadata_props)}
    steps |= {n.input[1] for n in new.graph.node if n.op_type == "DequantizeLinear" and n.input[1] in steps}
    allowed = set()
    for r in declared.values():
        for part in (r.weight, r.weight_scale, r.bias, r.bias_scale):
            if part is not None:
                value = graph.constant(part.name)
                assert value is not None and digest(value) == part.digest
                assert part.before is None or before.constant(part.before) is not None
                allowed |= {part.name, part.before}
        value = graph.constant(r.weight.name)
        assert value is not None
        if value.dtype.kind != "f":
            assert r.low <= value.astype(int).min() and value.astype(int).max() <= r.high
    rescaled = {t for t in now if t.endswith("_rescaled") or "_rescaled_" in t}
    for name, content in now.items():
        assert old.get(name) == content or name in allowed | steps | rescaled or _copied(before, graph, name), name
    assert sorted(n.op_type for n in new.graph.node) == sorted(n.op_type for n in model.graph.node)
    assert {n.name for n in new.graph.node if "_clone" not in n.name} <= {n.name for n in model.graph.node}


def test_copies_follow_their_originals() -> None:
    """Of a translated file: integers behind a quantizer are the original channel's beyond X_clip, exactly."""
    model = translated()
    layouts = read_layouts(model)
    assert len(layouts) > 5
    new, _, parts, _ = shaken(model)
    assert sum(x.tie is not None for x in parts.layers) == len(layouts)
    assert not read_scales(new).keys() & layouts.keys()
    _only_what_is_declared(model, new)
    graph = EditableGraph(new)
    wanted = [t for now, _ in layouts.values() for t in (now, graph.producer[now].input[0])]
    whole = expose(new, wanted)
    found = dict(zip([o.name for o in whole.graph.output], execute(whole, {"pixels": pixels()[:16]}), strict=True))
    active = 0
    for now, wide in layouts.values():
        q = read_quantizer(graph, graph.producer[now])
        assert isinstance(q, Quantizer)
        x = found[graph.producer[now].input[0]].astype(np.float64)
        base = np.zeros(wide.narrow, np.int64)
        base[wide.origin[wide.level == 0]] = np.flatnonzero(wide.level == 0)
        shift = (wide.level * q.x_clip).reshape(-1, 1, 1)
        exact = np.maximum(x[:, base[wide.origin]] - shift, 0) / q.scale
        integers = np.minimum(found[now], q.qmax).astype(np.float64)
        near = np.abs(exact - np.clip(integers, q.qmin, q.qmax))[integers < q.qmax]
        assert near.max() < 0.53  # half a step, and what an integer bias misses
        active += int(np.count_nonzero(integers[:, wide.level > 0]))
    assert active > 100
    for x in parts.layers:
        if x.tie is not None:
            rows = EditableGraph(new).constant(x.weight.root)
            assert rows is not None and np.array_equal(rows, rows[x.tie.base[x.tie.origin]])


def test_declared_twice_it_is_declared_against_the_first_file() -> None:
    """What an earlier fit has declared keeps the names of before, and its range."""
    model = onnx.load(LOW)
    first, *_ = shaken(model, 1)
    second, *_ = shaken(first, 2)
    _only_what_is_declared(model, second)
    assert read_scales(second).keys() == read_scales(first).keys()
    assert all(sum(p.key == SCALE for p in n.metadata_props) <= 1 for n in second.graph.node)
