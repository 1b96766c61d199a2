"""All layers of a model, fitted, judged and written: small models of all topologies and dialects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from covering import every_other
from onnx import numpy_helper
from zoo import CASES, TOPOLOGIES, Net, Style, build, execute

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.errors import UserError
from onnx_ocs.measurement.quality import compare
from onnx_ocs.model.graph import Graph
from onnx_ocs.passes.reconstruct import Reconstruct
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import PassResult, run_passes
from onnx_ocs.reconstruction.copies import ties
from onnx_ocs.reconstruction.find import find_maps
from onnx_ocs.reconstruction.linear import LinearMap, canonical
from onnx_ocs.reconstruction.run import told_by
from onnx_ocs.records.weights import digest, read_refitted

SAMPLES = 48


def samples_of(feed: Mapping[str, np.ndarray], count: int = SAMPLES, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {k: rng.standard_normal((count, *v.shape[1:])).astype(v.dtype) for k, v in feed.items()}


def reconstructed(
    model: onnx.ModelProto, feed: Mapping[str, np.ndarray], *before: Any, floats: onnx.ModelProto | None = None
) -> tuple[onnx.ModelProto, PassResult]:
    context = Context(open_samples(dict(feed), model), floats=floats)
    new, results = run_passes(model, [*before, Reconstruct()], context)
    return new, results["reconstruct"]


def constants(model: onnx.ModelProto) -> dict[str, tuple[np.ndarray, bytes]]:
    found = {t.name: t for t in model.graph.initializer}
    for n in model.graph.node:
        if n.op_type == "Constant":
            found.update((n.output[0], a.t) for a in n.attribute if a.name == "value")
    return {k: (numpy_helper.to_array(t), t.SerializeToString()) for k, t in found.items()}


def check_declared(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Nothing but what is declared is another than before, and what is declared is there."""
    old, new = constants(before), constants(after)
    declared: dict[str, Any] = {}
    for refitted in read_refitted(after).values():
        for e in (refitted.weight, refitted.weight_scale, refitted.bias, refitted.bias_scale):
            if e is not None:
                assert e.name not in declared, f"{e.name} is declared twice"
                declared[e.name] = e
                assert digest(new[e.name][0]) == e.digest
                if e.before is not None:
                    was, now = old[e.before][0], new[e.name][0]
                    assert (was.dtype, was.shape) == (now.dtype, now.shape)
    for name, (_, stored) in new.items():
        if name not in declared:
            assert stored == old[name][1], f"{name} has changed and is not declared"
    kept = {tuple(n.output): (n.op_type, n.name) for n in after.graph.node}
    for n in before.graph.node:
        assert kept[tuple(n.output)] == (n.op_type, n.name)
    assert [o.SerializeToString() for o in before.graph.output] == [o.SerializeToString() for o in after.graph.output]


# Every topology and every dialect alone or behind a translation; `--full`: in both ways.
EVERY = [c.name for c in TOPOLOGIES]
DIALECTS = [c.name for c in CASES.values() if c.loads and c.exact and c not in TOPOLOGIES]
ROUNDED = [c.name for c in CASES.values() if c.loads and not c.exact]


@pytest.mark.parametrize("name", [*every_other(EVERY), *ROUNDED, *every_other(DIALECTS)])
def test_every_topology_and_dialect(name: str) -> None:
    model, feed = build(name)
    if CASES[name].style.batch != "N":
        feed = {k: v[:2] for k, v in feed.items()}
    samples = samples_of(feed)
    new, result = reconstructed(model, samples)
    check_declared(model, new)
    assert Graph(model).nodes and all(e["status"] in ("applied", "refused") for e in result.reconstructions)
    if result.changed:
        batch = {k: v[: len(next(iter(feed.values())))] for k, v in samples.items()}
        assert all(np.isfinite(np.asarray(o, np.float32)).all() for o in execute(new, batch))


@pytest.mark.parametrize("name", [*every_other(EVERY, 1), *every_other(DIALECTS, 1)])
def test_behind_translation(name: str) -> None:
    """Copies' rows follow their channels' rows, and the sum of both is what a narrow network computes."""
    model, feed = build(name)
    if CASES[name].style.batch != "N":
        feed = {k: v[:2] for k, v in feed.items()}
    context = Context(open_samples(samples_of(feed), model))
    wide, _ = run_passes(model, [Translate(ratio=1.0)], context)
    new, results = run_passes(wide, [Reconstruct()], context, original=model)
    check_declared(wide, new)
    for e in results["reconstruct"].reconstructions:
        assert e["reason"] is None or e["reason"]["code"] not in ("copies", "no_target"), e
    graph = Graph(new)
    tied = ties(graph)
    for layer in find_maps(graph):
        if isinstance(layer, LinearMap) and layer.tie is not None:
            form = canonical(layer.node, layer.weight.index, layer.weight.chain.shape)
            assert form is not None and id(layer.node) in tied
            rows, follows = layer.weight.value.reshape(-1)[form[0][0]], layer.tie.base[layer.tie.origin]
            assert np.array_equal(rows, rows[follows])
            if np.any(layer.fixed != layer.fixed[follows]):
                step = 1e-6 if layer.bias is None or layer.bias.kind == "plain" else np.max(layer.bias.scale)
                assert np.allclose(layer.fixed[follows] - layer.fixed, layer.tie.shift, rtol=1e-5, atol=step)


def rough(seed: int = 0) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model whose weights were damaged after it was quantized, and samples for it."""
    model, feed = build("bias_int32_residual")
    new = onnx.ModelProto()
    new.CopyFrom(model)
    rng = np.random.default_rng(seed)
    for t in new.graph.initializer:
        value = numpy_helper.to_array(t)
        if value.dtype == np.int8 and value.ndim == 4:
            noisy = np.clip(value + rng.integers(-9, 10, value.shape), -127, 127)
            t.CopyFrom(numpy_helper.from_array(noisy.astype(np.int8), t.name))
    return new, samples_of(feed, 96)


def test_damage_is_mended_on_unseen_samples() -> None:
    model, samples = rough()
    floats, feed = build("bias_int32_residual")
    new, result = reconstructed(model, samples, floats=floats)
    unseen = open_samples(samples_of(feed, 32, seed=9), model)
    before, after = compare(floats, [model, new], unseen)
    assert before.sqnr_db is not None and after.sqnr_db is not None
    assert after.sqnr_db > before.sqnr_db + 6
    for e in result.reconstructions:
        if e["status"] == "applied":
            assert 0 < e["changed"] <= 1 and e["error_after_db"] > e["error_before_db"]


def test_bytes_do_not_depend_on_the_run_or_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    model, samples = rough()
    first, _ = reconstructed(model, samples)
    monkeypatch.setattr("onnx_ocs.reconstruction.fit.CORES", 1)
    monkeypatch.setattr("onnx_ocs.reconstruction.forward.CORES", 1)
    second, _ = reconstructed(model, samples)
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_few_samples_do_nothing() -> None:
    model, samples = rough()
    new, result = reconstructed(model, {k: v[:15] for k, v in samples.items()})
    assert new is model and not result.changed and "15" not in "".join(result.notes) and result.notes


def test_padding_does_not_count() -> None:
    """An attention with a mask: whatever stands at padded positions, the same integers come out."""
    tokens = np.random.default_rng(0).standard_normal((SAMPLES, 5, 12)).astype(np.float32)
    counts = (np.arange(5)[None] < np.random.default_rng(1).integers(2, 6, (SAMPLES, 1))).astype(np.float32)

    def weights(filled: float, masked: bool) -> list[np.ndarray]:
        x = np.where(counts[..., None] > 0, tokens, filled * np.roll(tokens, 1, 0)).astype(np.float32)
        model = masked_attention()
        mask = counts if masked else np.ones_like(counts)
        new, result = reconstructed(model, {"x": x, "mask": mask})
        assert {e["status"] for e in result.reconstructions} <= {"applied", "refused"}
        return [e["error_after_db"] for e in result.reconstructions] + [v for v, _ in constants(new).values()]

    one, other = weights(0.0, True), weights(1.0, True)
    assert one[0] is not None and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    one, other = weights(0.0, False), weights(1.0, False)
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_samples_count_as_much_as_their_weights_say() -> None:
    """Whatever samples of weight 0 hold, the same integers come out; without weights it matters."""
    model, samples = rough()
    floats, _ = build("bias_int32_residual")
    odd = np.arange(96) % 3 == 1

    def weights(filled: float, given: bool) -> list[np.ndarray]:
        noise = np.random.default_rng(7).standard_normal(samples["x"].shape)
        x = np.where(odd[:, None, None, None], filled * noise, samples["x"]).astype(np.float32)
        x[:, 0, 0, 0] = odd  # what the function knows them by
        how = Reconstruct(weights=lambda feed: 2.0 - 2 * feed["x"][:, 0, 0, 0]) if given else Reconstruct()
        new, _ = run_passes(model, [how], Context(open_samples({"x": x}, model), floats=floats))
        return [v for v, _ in constants(new).values()]

    for given in (True, False):
        one, other = weights(0.5, given), weights(3.0, given)
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True)) == given


def masked_attention() -> onnx.ModelProto:
    """Scores of padded columns are far below the others; weights are damaged."""
    n = Net(Style(opset=21, weight="int4"), x=(5, 12), mask=(5,))
    x = n.qdq("x", "mid", scale=0.02)
    a, b = (n.qdq(n.matmul(x), "mid", scale=0.05) for _ in range(2))
    n.ints("middle", 1)
    far = n.op("Mul", n.op("Sub", n.op("Unsqueeze", "mask", "middle"), n.const("unit", 1)), n.const("far", 1e4))
    scores = n.op("Add", n.op("MatMul", a, n.op("Transpose", b, perm=[0, 2, 1])), far)
    y = n.qdq(n.op("MatMul", n.op("Softmax", scores), b), "mid", scale=0.05)
    return n.model(n.matmul(y))


def test_a_missing_torch_is_said_before_anything_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the pass is made: other passes may work for long before this one runs."""
    monkeypatch.setattr("onnx_ocs.reconstruction.train.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'onnx-ocs\[refine\]'"):
        Reconstruct(refine="3")
    with pytest.raises(UserError, match="give --calib"):
        Reconstruct().run(onnx.ModelProto(), Context())


def test_a_later_fit_says_so() -> None:
    told: list[tuple[str, int, int | None]] = []

    def note(what: str, done: int, total: int | None) -> None:
        told.append((what, done, total))

    for turn in (0, 2):
        told_by(note, turn)("fitting layers", 1, 3)
    assert told == [("fitting layers", 1, 3), ("fitting layers, other samples held out: 2 of 3", 1, 3)]
