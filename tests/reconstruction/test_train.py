"""Refinement with gradients: what is written is what was trained, ties hold, nothing else changes or gets worse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from zoo import build, execute

from models.quantizers.registry import find_quantizer, label
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import Samples, open_samples
from onnx_ocs.errors import UserError
from onnx_ocs.model.graph import Graph
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import run_passes
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.reconstruction.train import Effort, parse_refine, refine
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
FLOAT, CALIB, LOW = MODELS / "digits.fp32.onnx", MODELS / "digits.calib.npz", MODELS / "digits.w8a2.onnx"
DIALECTS = [
    "bias_int32", "bias_int8", "bias_none", "bias_int32_gemm_alpha", "bias_int32_transposed", "weight_fake",
    "weight_fake_gemm", "weight_clip", "weight_clip_transposed", "weight_uint8", "weight_int4", "weight_constant",
    "per_tensor", "contrib", "qcdq2", "residual", "concat_grouped", "attention", "shared_parameters", "listed_inputs",
    "zero_vector", "bias_int32_depthwise", "small_gelu", "resize_requantized", "opset13",
]  # fmt: skip


def pixels() -> np.ndarray:
    with np.load(CALIB) as z:
        return z["pixels"]


def noise(model: onnx.ModelProto, feed: dict[str, np.ndarray], wanted: np.ndarray) -> float:
    return float(((execute(model, feed)[0] - wanted) ** 2).sum() / (wanted**2).sum())


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
    graph, rng = Graph(model), torch.Generator().manual_seed(seed)
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
    graph, before = Graph(new), Graph(model)
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
    graph = Graph(new)
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
            rows = Graph(new).constant(x.weight.root)
            assert rows is not None and np.array_equal(rows, rows[x.tie.base[x.tie.origin]])


@pytest.mark.parametrize("make", [lambda: onnx.load(LOW), translated], ids=["plain", "translated"])
def test_it_gets_closer_to_the_float_model(make: Any) -> None:
    """On samples that it has not seen, in few steps; the same steps give the same bytes; the report says so."""
    model, floats = make(), onnx.load(FLOAT)
    seen, unseen = pixels()[:192], {"pixels": pixels()[192:]}
    ticks: list[tuple[str, int, int | None]] = []

    def run() -> tuple[onnx.ModelProto, Any]:
        samples = open_samples({"pixels": seen}, model)
        return refine(model, samples, floats, steps=24, seed=1, progress=lambda *t: ticks.append(t))

    new, done = run()
    assert new.SerializeToString(deterministic=True) == run()[0].SerializeToString(deterministic=True)
    assert ticks[-1][1:] == (24, 24) and len(ticks) == 48
    target = execute(floats, unseen)[0]
    assert noise(new, unseen, target) < 0.85 * noise(model, unseen, target)
    (before, after) = done.errors["logits"]
    assert after < before and done.best and done.layers == 14 and done.samples == (168, 24)
    assert done.as_dict()["errors"]["logits"] == {"before": before, "after": after}
    _only_what_is_declared(model, new)
    assert (done.rescaled > 0) == bool(read_scales(new))


def test_it_mends_what_two_bits_destroy(tmp_path: Path) -> None:
    find_quantizer("lowbit", 2, 2)(FLOAT, tmp_path / "low.onnx", CALIB)
    model, floats, feed = onnx.load(tmp_path / "low.onnx"), onnx.load(FLOAT), {"pixels": pixels()}
    new, _ = refine(model, open_samples(feed, model), floats, steps=40)
    target = execute(floats, feed)[0]
    same = [np.mean(execute(m, feed)[0].argmax(1) == target.argmax(1)) for m in (model, new)]
    assert same[1] > same[0] + 0.2 and noise(new, feed, target) < 0.8 * noise(model, feed, target)
    arrays = [numpy_helper.to_array(t) for t in new.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    inner = [a for a in arrays if a.ndim == 4 and np.abs(a).max() < 4]
    assert len(inner) == 12 and all({*np.unique(a)} == {-1, 0, 1} for a in inner)


def test_never_worse() -> None:
    """A model that cannot be better comes back as it is: its own answers are the target."""
    model = onnx.load(LOW)
    new, done = refine(model, open_samples({"pixels": pixels()[:32]}, model), model, steps=3)
    assert new is model and done.best == 0 and done.note and done.errors["logits"] == (pytest.approx(0, abs=1e-12),) * 2
    few, done = refine(model, open_samples({"pixels": pixels()[:4]}, model), model, steps=3)
    assert few is model and done.steps == 0 and "fewer than" in done.note


def test_declared_twice_it_is_declared_against_the_first_file() -> None:
    """What an earlier fit has declared keeps the names of before, and its range."""
    model = onnx.load(LOW)
    first, *_ = shaken(model, 1)
    second, *_ = shaken(first, 2)
    _only_what_is_declared(model, second)
    assert read_scales(second).keys() == read_scales(first).keys()
    assert all(sum(p.key == SCALE for p in n.metadata_props) <= 1 for n in second.graph.node)


def test_what_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.load(LOW)
    samples = open_samples({"pixels": pixels()[:32]}, model)
    strange = onnx.load(LOW)
    next(n for n in strange.graph.node if n.op_type == "Relu").op_type = "Sin"
    before = strange.SerializeToString(deterministic=True)
    with pytest.raises(UserError, match="operator Sin"):
        refine(strange, samples, model, steps=1)
    assert strange.SerializeToString(deterministic=True) == before
    with pytest.raises(UserError, match="--float"):
        refine(translated(), samples, None, steps=1)
    with pytest.raises(UserError, match="steps or of minutes"):
        refine(model, samples, model)
    monkeypatch.setattr("onnx_ocs.reconstruction.train.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install onnx-ocs\[refine\]"):
        refine(model, samples, model, steps=1)


def test_a_fixed_batch_and_a_budget_of_time() -> None:
    """Feeds that cannot be put together are run one by one; minutes become steps."""
    model, feed = build("fixed_batch")
    rng = np.random.default_rng(0)
    feeds = [{k: rng.normal(size=v.shape).astype(v.dtype) for k, v in feed.items()} for _ in range(10)]
    samples = Samples("made", lambda _size, _limit: ((2, f) for f in feeds))
    _, done = refine(model, samples, None, minutes=0.02)
    assert done.steps >= 10 and sum(done.samples) == 10


@pytest.mark.parametrize(
    ("text", "effort"),
    [
        ("400", Effort(steps=400)),
        ("3m", Effort(minutes=3)),
        ("1.5 min", Effort(minutes=1.5)),
        ("2h", Effort(minutes=120)),
    ],
)
def test_the_option(text: str, effort: Effort) -> None:
    assert parse_refine(text) == effort


@pytest.mark.parametrize("text", ["", "0", "x", "1.5", "-3", "3s", "0m"])
def test_the_option_refuses(text: str) -> None:
    with pytest.raises(UserError, match="--refine"):
        parse_refine(text)


def test_the_quantizer_that_refines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert label("reconstructed", 2, 2) == "w2a2.reconstructed"
    monkeypatch.setattr("models.quantizers.registry.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install onnx-ocs\[refine\]"):
        find_quantizer("reconstructed", 2, 2)
