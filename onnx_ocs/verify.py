"""Does the rewritten model do exactly what it claims?  Layer by layer, in onnxruntime.

A deep quantized network amplifies one flipped rounding into another answer, so two models cannot be compared by their
outputs.  Instead both are *cut* at every quantized activation: each piece gets the same integers and must give the
same integers.  The yardstick is the oracle: the original with wide fake-quantizers (`onnx_ocs.oracle`).

- At ORT_DISABLE_ALL, rewritten against oracle, on the samples' own activations and on random ones that fill the wide
  range: no value may differ by more than one step, and by one only where the exact value lies on a rounding tie.
- At ORT_ENABLE_ALL, rewritten against itself at ORT_DISABLE_ALL; the same is measured on the original, and what the
  original already shows is not held against the rewrite.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from onnx_ocs.calibration import Samples
from onnx_ocs.graph import Array, Graph, is_op
from onnx_ocs.layout import Wide
from onnx_ocs.oracle import WideQuantizer, oracle
from onnx_ocs.quantizer import Quantizer, read_quantizer
from onnx_ocs.rescale import read_scales, rescale_model
from onnx_ocs.runtime import Session, as_bytes, cut, expose
from onnx_ocs.shapes import infer_shapes
from onnx_ocs.widen import read_layouts

__all__ = ["Difference", "Verification", "verify"]

log = logging.getLogger(__name__)

TIE_WINDOW = 0.05  # steps; a value this close to a tie may flip through the order of float sums or a rounded bias
FLIPS = 1e-3  # share of values that may flip near a tie (those exactly on a tie are not counted)
FEW = 3  # values that may differ whatever their share (tiny models)
SHIFT = 5e-4  # largest mean signed difference, in steps: more is a systematic shift
SMALL = 2_000_000  # values; smaller models get more draws of random activations
RELATIVE = 1e-4  # of float graph outputs, against their largest absolute value


@dataclass
class Difference:
    """Differences between two models' quantized activations, accumulated over tensors and batches.

    Attributes:
        values: number of integers compared.
        mismatches: how many differ.
        off_tie: how many differ although the exact value is no rounding tie.
        max_steps: largest difference in quantization steps.
        shift: sum of signed differences, in steps, exact ties left out.
        max_abs: largest difference of a float graph output.
        relative: the same, against the output's largest absolute value.
        worst: name of the tensor with the largest difference.
        ties: how many of the mismatches lie exactly on a rounding tie.
        allowed: how many values may flip near a tie.
    """

    values: int = 0
    mismatches: int = 0
    off_tie: int = 0
    max_steps: int = 0
    shift: float = 0.0
    max_abs: float = 0.0
    relative: float = 0.0
    worst: str = ""
    ties: int = 0
    allowed: float = 0.0

    @property
    def fraction(self) -> float:
        """Share of integers that differ."""
        return self.mismatches / self.values if self.values else 0.0

    def integers(self, name: str, a: Array, b: Array, exact: Array | None, noise: float = 0.0) -> None:
        """Compare two arrays of steps.

        Args:
            name: of the tensor.
            a: expected.
            b: found.
            exact: the value in steps before it was rounded, where it is known.
            noise: rounding unit of the float arithmetic, in steps, for the largest value.
        """
        self.values += a.size
        self.allowed += a.size * (FLIPS + min(4 * noise, 20 * FLIPS))
        delta = b.astype(np.int64) - a.astype(np.int64)
        where = np.flatnonzero(delta)
        if not where.size:
            return
        d = delta.reshape(-1)[where]
        self.mismatches += where.size
        largest = int(np.abs(d).max())
        if largest > self.max_steps:
            self.max_steps, self.worst = largest, name
        tie = np.zeros(where.size, bool)
        if exact is not None:
            distance = np.abs(np.abs(exact.reshape(-1)[where] % 1.0) - 0.5)
            tie = distance < 1e-5
            if 16 * noise < TIE_WINDOW:  # finer steps than the float arithmetic in front of them resolves have no ties
                self.off_tie += int(np.sum((distance > TIE_WINDOW + 16 * noise) & (np.abs(d) == 1)))
        self.ties += int(tie.sum())
        self.shift += float(d[~tie].sum())

    def floats(self, name: str, a: Array, b: Array) -> None:
        """Compare a float graph output."""
        if a.shape != b.shape:
            self.max_abs = self.relative = float("inf")
            self.worst = name
            return
        if a.size and a.dtype.kind == "f":
            x, y = a.astype(np.float64), b.astype(np.float64)
            same = (x == y) | (np.isnan(x) & np.isnan(y))
            gap = float(np.max(np.abs(x - y), where=~same, initial=0.0))
            size = float(np.max(np.abs(x), where=np.isfinite(x), initial=0.0))
            self.max_abs = max(self.max_abs, gap)
            self.relative = max(self.relative, gap / size if size else gap)
        elif a.size:
            self.integers(name, a, b, None)

    def as_dict(self, level: str) -> dict[str, Any]:
        """One entry of the report's `verification.levels`."""
        return {
            "level": level,
            "max_abs": self.max_abs,
            "max_steps": self.max_steps,
            "mismatch_fraction": self.fraction,
            "mismatches_exactly_on_ties": self.ties,
            "mean_shift_steps": self.shift / self.values if self.values else 0.0,
            "values": self.values,
            "worst": self.worst,
        }


@dataclass
class Verification:
    """Result of a verification.

    Attributes:
        verdict: "PASSED" or "FAILED".
        failures: what is wrong, one sentence each.
        notes: what is worth knowing and is no failure.
        exact: rewritten against the oracle at ORT_DISABLE_ALL.
        optimized: rewritten at ORT_ENABLE_ALL against ORT_DISABLE_ALL; None where it could not be run.
        original: the same of the original.
        inputs: what was fed.
        translated: number of quantizers that are wide.
        rescaled: number of quantizers with another step.
        active: share of the copies' values that were not zero in the exact comparison.
        io_unchanged: whether names, types and shapes of graph inputs and outputs, and the opsets, are the same.
        checker: "ok", or what the checker says.
    """

    verdict: str = "PASSED"
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    exact: Difference = field(default_factory=Difference)
    optimized: Difference | None = None
    original: Difference | None = None
    inputs: str = ""
    translated: int = 0
    rescaled: int = 0
    active: float = 0.0
    io_unchanged: bool = True
    checker: str = "ok"

    def fail(self, why: str) -> None:
        """Record a failure."""
        self.verdict = "FAILED"
        self.failures.append(why)

    def as_dict(self) -> dict[str, Any]:
        """The report's `verification`."""
        levels = [self.exact.as_dict("disable_all")]
        if self.optimized is not None:
            levels.append(self.optimized.as_dict("enable_all"))
        return {
            "verdict": self.verdict,
            "failures": self.failures,
            "notes": self.notes,
            "levels": levels,
            "oracle": {
                "translated_quantizers": self.translated,
                "rescaled_quantizers": self.rescaled,
                "copies_active": self.active,
                "inputs": self.inputs,
                "original_between_levels": None if self.original is None else self.original.as_dict("enable_all"),
            },
            "io_unchanged": self.io_unchanged,
            "checker": self.checker,
        }


@dataclass(frozen=True)
class _Cut:
    """One quantized activation in the three models."""

    tensor: str  # float input of the Q
    quantizer: Quantizer
    original: str  # integers in the original
    oracle: str  # integers, or float k, in the oracle
    rewritten: str  # integers in the rewritten model
    wide: Wide | None

    @property
    def stored(self) -> np.dtype[np.generic]:
        """The dtype in which the integers are fed."""
        d = self.quantizer.dtype
        return d if d.kind in "iu" else np.dtype(np.uint8 if d.name.startswith("u") else np.int8)

    @property
    def noise(self) -> float:
        """Rounding unit of the float tensor's dtype at the quantizer's largest value, in steps."""
        q = self.quantizer
        most = 1 if self.wide is None else 1 + int(np.abs(self.wide.level).max())
        return (q.qmax - q.qmin) * most * float(np.finfo(q.float_dtype.name).eps) / 2

    def split(self, k: Array) -> Array:
        """The wide integers whose sum is zero_point + k."""
        q, w = self.quantizer, self.wide
        if w is None:
            return k.astype(self.stored)
        values = np.take(np.rint(np.nan_to_num(k)).astype(np.int64), w.origin, axis=w.axis)
        shape = [1] * k.ndim
        shape[w.axis] = -1
        z = np.broadcast_to(q.zero_point, (w.narrow,))[w.origin].reshape(shape)
        level = w.level.reshape(shape)
        up, low = q.qmax - z, z - q.qmin
        copy_up = np.clip(values - level * up, 0, up)
        copy_low = np.clip(values - level * low, -low, 0)
        base = np.clip(values, -low, up)
        return np.asarray(np.where(level > 0, copy_up, np.where(level < 0, copy_low, base)) + z).astype(self.stored)

    def total(self, integers: Array) -> Array:
        """The value k that wide integers stand for (or the integers themselves)."""
        q, w = self.quantizer, self.wide
        if w is None:
            return integers.astype(np.int64)
        shape = [1] * integers.ndim
        shape[w.axis] = -1
        z = np.broadcast_to(q.zero_point, (w.narrow,))[w.origin].reshape(shape)
        steps = np.moveaxis(integers.astype(np.int64) - z, w.axis, 0)
        out = np.zeros((w.narrow, *steps.shape[1:]), np.int64)
        np.add.at(out, w.origin, steps)
        return np.moveaxis(out, 0, w.axis)

    def steps(self, a: Array) -> Array:
        """A float tensor in steps, before rounding."""
        s = self.quantizer.scale
        if s.size > 1:
            shape = [1] * a.ndim
            shape[self.wide.axis if self.wide else (self.quantizer.axis or 0)] = -1
            s = s.reshape(shape)
        return np.asarray(a.astype(np.float64) / s)


def _final(graph: Graph, quantized: str) -> str:
    """The integer tensor behind a Q and its Clip, if it has one."""
    readers = graph.readers(quantized)
    if len(readers) == 1 and is_op(readers[0], "Clip") and quantized not in graph.outputs:
        return str(readers[0].output[0])
    return quantized


def _cuts(
    original: Graph, rewritten: Graph, layouts: Mapping[str, tuple[str, Wide]], names: Mapping[str, str]
) -> list[_Cut]:
    cuts = []
    for n in original.nodes:
        if not is_op(n, "QuantizeLinear") or original.constant(n.input[0]) is not None:
            continue
        q = read_quantizer(original, n)
        if not isinstance(q, Quantizer):
            continue
        name = n.output[0]
        new, wide = layouts.get(name, (name, None))
        at = _final(original, name)
        if new in rewritten.producer:
            after = _final(rewritten, new)
            if q.dtype.kind not in "iu":  # 2- and 4-bit integers pass through a byte there
                at, after = at + "__byte", after + "__byte"
            cuts.append(_Cut(n.input[0], q, at, names.get(name, at), after, wide))
    return cuts


def _nibbles(graph: Graph) -> dict[str, np.dtype[np.generic]]:
    """Activations of 2- or 4-bit integers, which onnxruntime can neither be fed nor asked for."""
    found = {}
    for n in graph.nodes:
        if is_op(n, "QuantizeLinear") and graph.constant(n.input[0]) is None:
            q = read_quantizer(graph, n)
            if isinstance(q, Quantizer) and q.dtype.kind not in "iu":
                found[_final(graph, str(n.output[0]))] = q.dtype
    return found


def _structure(result: Verification, original: onnx.ModelProto, rewritten: onnx.ModelProto) -> None:
    def signature(m: onnx.ModelProto) -> list[Any]:
        values = [v.SerializeToString(deterministic=True) for g in (m.graph.input, m.graph.output) for v in g]
        return [*values, sorted((o.domain, o.version) for o in m.opset_import)]

    if signature(original) != signature(rewritten):
        result.io_unchanged = False
        result.fail("graph inputs, outputs or opsets are not those of the original")
    for full in (True, False):
        try:
            onnx.checker.check_model(original, full_check=full)
        except Exception as e:
            result.notes.append(
                f"onnx.checker (full_check={full}) rejects the original: {str(e).splitlines()[0][:160]}"
            )
            result.checker = "the original is rejected"
            continue
        try:
            onnx.checker.check_model(rewritten, full_check=full)
            result.checker = "ok (full)" if full else "ok"
        except Exception as e:
            result.checker = str(e).splitlines()[0][:300]
            result.fail(f"onnx.checker rejects the rewritten model: {result.checker}")
        return


def _load(model: onnx.ModelProto, level: str) -> Session | str:
    try:
        return Session(model, level)
    except Exception as e:  # onnxruntime raises many kinds; the message is the finding
        return str(e).splitlines()[0][:300]


def _run(session: Session, feed: Mapping[str, Array]) -> dict[str, Array] | str:
    try:
        return session.run(feed)
    except Exception as e:
        return str(e).splitlines()[0][:300]


def _stress(
    states: Mapping[str, Array],
    cuts: list[_Cut],
    limits: Mapping[str, WideQuantizer],
    rng: np.random.Generator,
    turn: int,
) -> dict[str, Array]:
    """Random integers that fill every quantizer's (wide) range; in turn everywhere, near the top, near the bottom."""
    out: dict[str, Array] = {}
    for c in cuts:
        like = states[c.oracle]
        if c.original not in limits or c.wide is None:
            out[c.oracle] = rng.integers(c.quantizer.qmin, c.quantizer.qmax + 1, like.shape).astype(like.dtype)
            continue
        lo, hi = limits[c.original].limits()
        shape = [1] * like.ndim
        shape[c.wide.axis] = -1
        # a part stays inside the old range, where most values lie
        u = rng.random(like.shape) * np.where(rng.random(like.shape) < 0.5, 1.0, 0.4)
        u = (u, 1 - u / 2, u / 2)[turn % 3]
        out[c.oracle] = np.rint(lo.reshape(shape) + u * (hi - lo).reshape(shape)).astype(like.dtype)
    return out


def verify(
    original: onnx.ModelProto, rewritten: onnx.ModelProto, samples: Samples, limit: int = 4, seed: int = 0
) -> Verification:
    """Verify a rewritten model against its original.

    Args:
        original: the model before.
        rewritten: the model after; its nodes' metadata say which quantizers are wide, and how.
        samples: what to feed.
        limit: number of samples.
        seed: of the random activations.

    Returns:
        The result; its verdict is PASSED or FAILED.
    """
    result = Verification(inputs=samples.description)
    _structure(result, original, rewritten)
    try:
        scales = read_scales(rewritten)
    except (ValueError, KeyError, TypeError) as e:
        result.fail(f"the steps that the rewritten model carries cannot be read ({type(e).__name__}: {e})")
        return result
    genuine = original
    if scales:  # the yardstick has the new steps, and biases that follow them
        original = rescale_model(original, scales)
        result.rescaled = len(scales)
    before, after = Graph(original), Graph(rewritten)
    try:
        layouts = read_layouts(rewritten)
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as e:
        result.fail(f"the layouts that the rewritten model carries cannot be read ({type(e).__name__}: {e})")
        return result
    shapes = infer_shapes(original)
    wide: dict[str, WideQuantizer] = {}
    for name, (_, w) in layouts.items():
        q = read_quantizer(before, before.producer[name]) if name in before.producer else None
        if not isinstance(q, Quantizer):
            result.fail(f"the original has no quantizer '{name}', which the rewritten model claims to have widened")
            return result
        tensor = before.producer[name].input[0]
        rank = len(shapes[tensor]) if tensor in shapes else None
        wide[name] = WideQuantizer(q, w.axis, *w.copies(), rank)
    result.translated = len(wide)
    plain = _load(original, "disable_all")
    if isinstance(plain, str):
        result.notes.append(f"onnxruntime does not load the original, so nothing could be compared: {plain}")
        return result
    new = _load(rewritten, "disable_all")
    if isinstance(new, str):
        result.fail(f"onnxruntime loads the original but not the rewritten model: {new}")
        return result
    truth, names = oracle(original, wide) if wide else (original, {})
    if narrow := _nibbles(before):
        untouched = {t: d for t, d in narrow.items() if any(t in n.output for n in truth.graph.node)}
        truth, original = as_bytes(truth, untouched), as_bytes(original, narrow)
        rewritten = as_bytes(rewritten, _nibbles(after))
    cuts = _cuts(before, after, layouts, names)
    limits = {c.original: wide[n] for n in wide for c in cuts if c.oracle == names[n]}
    _exact(result, truth, rewritten, cuts, limits, samples, limit, seed)
    if wide and not result.exact.values and result.verdict == "PASSED":
        result.fail(
            "the models could not be run on these inputs, so nothing was compared: give samples that fit (--calib)"
        )
    if result.verdict == "PASSED":
        _optimized(result, genuine, original, rewritten, cuts, samples, limit)
    return result


def _exact(
    result: Verification,
    truth: onnx.ModelProto,
    rewritten: onnx.ModelProto,
    cuts: list[_Cut],
    limits: Mapping[str, WideQuantizer],
    samples: Samples,
    limit: int,
    seed: int,
) -> None:
    """Rewritten against oracle, layer by layer, at ORT_DISABLE_ALL."""
    floats = [c.tensor for c in cuts]
    whole = _load(expose(truth, [*(c.oracle for c in cuts), *floats]), "disable_all")
    if isinstance(whole, str):
        result.fail(f"onnxruntime does not load the oracle: {whole}")
        return
    pieces: Session | str | None = None
    fed_shapes: dict[str, tuple[int, ...]] = {}
    outputs: dict[str, str] = {}
    active = total = 0
    graph_outputs = [o.name for o in truth.graph.output]
    states: dict[str, Array] = {}
    feed: dict[str, Array] = {}

    def compare(computed: Mapping[str, Array], expected: Mapping[str, Array], outside: bool) -> None:
        for c in cuts:
            name = outputs.get(c.rewritten)
            if name is None:
                continue
            a = c.total(c.split(expected[c.oracle]))
            known = expected.get(c.tensor)
            exact_steps = None if known is None else c.steps(known)
            result.exact.integers(c.tensor, a, c.total(computed[name]), exact_steps, c.noise)
        for o in graph_outputs:
            # integers that are a graph output come straight from what is fed: random states differ there
            if o in computed and o in expected and (outside or expected[o].dtype.kind == "f"):
                result.exact.floats(o, expected[o], computed[o])

    for feed in samples.batches(1, limit):
        got = _run(whole, feed)
        if isinstance(got, str):
            result.notes.append(f"onnxruntime does not run the original on these inputs: {got}")
            return
        states = {c.oracle: got[c.oracle] for c in cuts}
        fed = {c.rewritten: c.split(states[c.oracle]) for c in cuts}
        if pieces is None or any(fed[c.rewritten].shape != fed_shapes[c.rewritten] for c in cuts):
            fed_shapes = {k: v.shape for k, v in fed.items()}
            model, outputs = cut(rewritten, fed)
            pieces = _load(model, "disable_all")
        if isinstance(pieces, str):
            result.fail(f"onnxruntime does not load the rewritten model cut into layers: {pieces}")
            return
        computed = _run(pieces, {**feed, **{k: v for k, v in fed.items() if k in outputs}})
        if isinstance(computed, str):
            result.fail(f"onnxruntime runs the original but not the rewritten model: {computed}")
            return
        for c in cuts:
            if c.wide is not None:
                values = fed[c.rewritten].astype(np.int64)
                copies = np.take(values, np.flatnonzero(c.wide.level != 0), axis=c.wide.axis)
                z = int(c.quantizer.zero_point.flat[0])
                active, total = active + int(np.sum(copies != z)), total + copies.size
        compare(computed, got, True)
    if cuts and limits and isinstance(pieces, Session):
        rng = np.random.default_rng(seed)
        size = sum(v.size for v in states.values())
        stressed: Session | str | None = None
        truth_names: dict[str, str] = {}
        for turn in range(9 if size < SMALL else 3):
            random = _stress(states, cuts, limits, rng, turn)
            if stressed is None:
                truth_cut, truth_names = cut(expose(truth, floats), random)
                stressed = _load(truth_cut, "disable_all")
            if isinstance(stressed, str):
                result.notes.append(f"the oracle cut into layers does not load: {stressed}")
                break
            fed = {c.rewritten: c.split(random[c.oracle]) for c in cuts}
            expected = _run(stressed, {**feed, **{k: v for k, v in random.items() if k in truth_names}})
            computed = _run(pieces, {**feed, **{k: v for k, v in fed.items() if k in outputs}})
            if isinstance(expected, str) or isinstance(computed, str):
                result.notes.append("the models cut into layers do not run on random activations")
                break
            for c in cuts:
                if c.oracle in truth_names:
                    expected[c.oracle] = expected[truth_names[c.oracle]]
            compare(computed, expected, False)
    result.active = active / total if total else 0.0
    d = result.exact
    slack = 200 * RELATIVE if any(c.quantizer.float_dtype != np.float32 for c in cuts) else RELATIVE
    if d.max_steps > 1:
        result.fail(f"'{d.worst}' differs from the oracle by {d.max_steps} steps")
    if d.off_tie:
        result.fail(f"{d.off_tie} values differ from the oracle by a step although they are no rounding ties")
    if d.mismatches - d.ties > d.allowed + FEW:
        result.fail(f"{d.fraction:.3%} of the quantized values differ from the oracle")
    if abs(d.shift) > d.allowed * SHIFT / FLIPS + FEW:
        result.fail(f"the quantized values are shifted by {d.shift / d.values:.2e} steps on average")
    if d.relative > slack:
        result.fail(
            f"a graph output differs from the oracle's by {d.max_abs:.3g} ({d.relative:.2g} of its largest value)"
        )


def _optimized(
    result: Verification,
    genuine: onnx.ModelProto,
    original: onnx.ModelProto,
    rewritten: onnx.ModelProto,
    cuts: list[_Cut],
    samples: Samples,
    limit: int,
) -> None:
    """ORT_ENABLE_ALL against ORT_DISABLE_ALL, layer by layer, for the rewritten model and for the original.

    `original` is the `genuine` one with the new steps, if there are any; what has to load is the genuine one.
    """
    for model, who in ((genuine, "original"), (rewritten, "rewritten")):
        loaded = _load(model, "enable_all")
        if isinstance(loaded, str):
            if who == "original":
                result.notes.append(f"onnxruntime does not load the original at ORT_ENABLE_ALL: {loaded}")
            else:
                result.fail(f"onnxruntime loads the original at ORT_ENABLE_ALL, but not the rewritten model: {loaded}")
            return
    for who, model in (("original", original), ("optimized", rewritten)):
        at = {c: c.original if who == "original" else c.rewritten for c in cuts}
        difference = Difference()
        whole = _load(expose(model, at.values()), "disable_all")
        sessions: tuple[Session, Session] | None = None
        names: dict[str, str] = {}
        for feed in samples.batches(1, limit):
            got = _run(whole, feed) if isinstance(whole, Session) else whole
            if isinstance(got, str):
                result.notes.append(f"the {who} model could not be compared between levels: {got}")
                return
            fed = {at[c]: got[at[c]] for c in cuts}
            if sessions is None:
                model_cut, names = cut(model, fed)
                low, high = _load(model_cut, "disable_all"), _load(model_cut, "enable_all")
                if isinstance(low, str) or isinstance(high, str):
                    result.notes.append(f"the {who} model cut into layers does not load at both levels")
                    return
                sessions = low, high
            complete = {**feed, **{k: v for k, v in fed.items() if k in names}}
            a, b = _run(sessions[0], complete), _run(sessions[1], complete)
            if isinstance(a, str) or isinstance(b, str):
                result.notes.append(f"the {who} model cut into layers does not run at both levels")
                return
            for c in cuts:
                if at[c] in names:
                    key = names[at[c]]
                    wide = c if who == "optimized" else _Cut(c.tensor, c.quantizer, "", "", "", None)
                    difference.integers(c.tensor, wide.total(a[key]), wide.total(b[key]), None)
            for o in (o.name for o in original.graph.output):
                if o in a:
                    difference.floats(o, a[o], b[o])
        if who == "original":
            result.original = difference
        else:
            result.optimized = difference
    old, now = result.original, result.optimized
    assert old is not None and now is not None
    if old.fraction or old.relative > RELATIVE:
        result.notes.append(
            f"the original itself differs between the two levels: {old.fraction:.3%} of its quantized values, "
            f"by up to {old.max_steps} steps"
        )
    if now.max_steps > max(1, 2 * old.max_steps) or now.mismatches > 3 * old.mismatches + 5e-3 * now.values + FEW:
        result.fail(
            f"at ORT_ENABLE_ALL {now.fraction:.3%} of the quantized values differ from ORT_DISABLE_ALL by up to "
            f"{now.max_steps} steps ('{now.worst}'); in the original {old.fraction:.3%} by up to {old.max_steps}"
        )
