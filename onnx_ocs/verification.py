"""Does the rewritten model do exactly what it claims?  Layer by layer, in onnxruntime.

A deep quantized network amplifies one flipped rounding into another answer, so two models cannot be compared by their
outputs.  Instead both are *cut* at every quantized activation: each piece gets the same integers and must give the
same integers.  The yardstick is the oracle: the original with wide fake-quantizers (`onnx_ocs.oracle`).

- At ORT_DISABLE_ALL, rewritten against oracle, on the samples' own activations and on random ones that fill the wide
  range: no value may differ by more than one step, and by one only where the exact value lies on a rounding tie.
- At ORT_ENABLE_ALL, rewritten against itself at ORT_DISABLE_ALL (`onnx_ocs.levels`); what the original already shows is
  not held against the rewrite.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from onnx_ocs.branch import read_branches, strip
from onnx_ocs.branch_check import check_branches
from onnx_ocs.calibration import Samples
from onnx_ocs.cuts import Cut, find_cuts, nibbles, stress
from onnx_ocs.difference import FEW, FLIPS, SHIFT, Difference
from onnx_ocs.errors import UserError, first_line
from onnx_ocs.graph import Array, Graph
from onnx_ocs.levels import between, excess
from onnx_ocs.oracle import WideQuantizer, oracle
from onnx_ocs.quantizer import Quantizer, read_quantizer
from onnx_ocs.rescale import read_scales, rescale_model
from onnx_ocs.runtime import Session, as_bytes, attempt, attempt_run, cut, expose
from onnx_ocs.shapes import infer_shapes
from onnx_ocs.tensors import rough_size, without_side_files
from onnx_ocs.widen import read_layouts

__all__ = ["Verification", "verify"]

SMALL = 2_000_000  # values; smaller models get more draws of random activations
LARGE = 1 << 28  # bytes of weights from which a run is long: one sample, and no more draws than there are kinds
RELATIVE = 1e-4  # of float graph outputs, against their largest absolute value


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
        branches: number of compensation branches.
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
    branches: int = 0
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
                "branches": self.branches,
                "copies_active": self.active,
                "inputs": self.inputs,
                "original_between_levels": None if self.original is None else self.original.as_dict("enable_all"),
            },
            "io_unchanged": self.io_unchanged,
            "checker": self.checker,
        }


@dataclass(frozen=True)
class _Inputs:
    """What the models are run on: so many of the samples, and random activations."""

    samples: Samples
    limit: int
    seed: int


def _structure(result: Verification, original: onnx.ModelProto, rewritten: onnx.ModelProto) -> None:
    def signature(m: onnx.ModelProto) -> list[Any]:
        values = [v.SerializeToString(deterministic=True) for g in (m.graph.input, m.graph.output) for v in g]
        return [*values, sorted((o.domain, o.version) for o in m.opset_import)]

    if signature(original) != signature(rewritten):
        result.io_unchanged = False
        result.fail("graph inputs, outputs or opsets are not those of the original")
    original, rewritten = without_side_files(original), without_side_files(rewritten)
    for full in (True, False):
        try:
            onnx.checker.check_model(original, full_check=full)
        except Exception as e:
            result.notes.append(f"onnx.checker (full_check={full}) rejects the original: {first_line(e, 160)}")
            result.checker = "the original is rejected"
            continue
        try:
            onnx.checker.check_model(rewritten, full_check=full)
            result.checker = "ok (full)" if full else "ok"
        except Exception as e:
            result.checker = first_line(e)
            result.fail(f"onnx.checker rejects the rewritten model: {result.checker}")
        return


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
    if rough_size(original, 0) > LARGE and limit > 1:
        limit = 1
        result.notes.append("the model is large: one sample, and three draws of random activations in every layer")
    inputs = _Inputs(samples, limit, seed)
    _structure(result, original, rewritten)
    try:
        given, found = read_branches(original), read_branches(rewritten)
        result.branches = len(found)
        bare = strip(rewritten) if found else rewritten
        plain = strip(original) if given else original
    except (ValueError, KeyError, TypeError, UserError) as e:
        result.fail(f"the branches that the rewritten model carries cannot be read ({type(e).__name__}: {e})")
        return result
    entries = [b.entry for b in found]
    for b in given:  # a pass that ran on a compensated model leaves its branches as they are
        if b.entry not in entries:
            result.fail(f"the branch at '{b.output}' of the original is missing or another one")
    _translation(result, plain, bare, inputs)
    if result.branches and result.verdict == "PASSED":
        _branches(result, original, rewritten, inputs)
    return result


def _branches(
    result: Verification,
    original: onnx.ModelProto,
    rewritten: onnx.ModelProto,
    inputs: _Inputs,
) -> None:
    """Compensation branches: they are left out of the comparison with the oracle, and checked by themselves."""
    for level in ("disable_all", "enable_all"):
        loaded = attempt(rewritten, level)
        if isinstance(loaded, str):
            if isinstance(attempt(original, level), str):
                continue  # nor the original
            result.fail(f"onnxruntime does not load the model with its branches at {level}: {loaded}")
            return
    try:
        for why in check_branches(rewritten, inputs.samples, inputs.limit, inputs.seed):
            result.fail(why)
    except Exception as e:  # onnxruntime raises many kinds
        result.fail(f"the branches cannot be run ({first_line(e, 200)})")


def _translation(
    result: Verification,
    original: onnx.ModelProto,
    rewritten: onnx.ModelProto,
    inputs: _Inputs,
) -> None:
    """Quantizers that were widened or got another step, against the oracle."""
    try:
        scales = read_scales(rewritten)
    except (ValueError, KeyError, TypeError) as e:
        result.fail(f"the steps that the rewritten model carries cannot be read ({type(e).__name__}: {e})")
        return
    genuine = original
    if scales:  # the yardstick has the new steps, and biases that follow them
        original = rescale_model(original, scales)
        result.rescaled = len(scales)
    before, after = Graph(original), Graph(rewritten)
    try:
        layouts = read_layouts(rewritten)
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as e:
        result.fail(f"the layouts that the rewritten model carries cannot be read ({type(e).__name__}: {e})")
        return
    shapes = infer_shapes(original)
    wide: dict[str, WideQuantizer] = {}
    for name, (_, w) in layouts.items():
        q = read_quantizer(before, before.producer[name]) if name in before.producer else None
        if not isinstance(q, Quantizer):
            result.fail(f"the original has no quantizer '{name}', which the rewritten model claims to have widened")
            return
        tensor = before.producer[name].input[0]
        rank = len(shapes[tensor]) if tensor in shapes else None
        wide[name] = WideQuantizer(q, w.axis, *w.copies(), rank, w.halved)
    result.translated = len(wide)
    plain = attempt(original, "disable_all")
    if isinstance(plain, str):
        result.notes.append(f"onnxruntime does not load the original, so nothing could be compared: {plain}")
        return
    new = attempt(rewritten, "disable_all")
    if isinstance(new, str):
        result.fail(f"onnxruntime loads the original but not the rewritten model: {new}")
        return
    del plain, new  # with what onnxruntime keeps for them
    truth, names = oracle(original, wide) if wide else (original, {})
    if narrow := nibbles(before):
        untouched = {t: d for t, d in narrow.items() if any(t in n.output for n in truth.graph.node)}
        truth, original = as_bytes(truth, untouched), as_bytes(original, narrow)
        rewritten = as_bytes(rewritten, nibbles(after))
    cuts = find_cuts(before, after, layouts, names)
    limits = {c.original: wide[n] for n in wide for c in cuts if c.oracle == names[n]}
    _exact(result, truth, rewritten, cuts, limits, inputs)
    if wide and not result.exact.values and result.verdict == "PASSED":
        result.fail(
            "the models could not be run on these inputs, so nothing was compared: give samples that fit (--calib)"
        )
    if result.verdict == "PASSED":
        models = {"genuine": genuine, "original": original, "rewritten": rewritten}
        _optimized(result, models, cuts, inputs)


def _exact(
    result: Verification,
    truth: onnx.ModelProto,
    rewritten: onnx.ModelProto,
    cuts: list[Cut],
    limits: Mapping[str, WideQuantizer],
    inputs: _Inputs,
) -> None:
    """Rewritten against oracle, layer by layer, at ORT_DISABLE_ALL."""
    floats = [c.tensor for c in cuts]
    whole = attempt(expose(truth, [*(c.oracle for c in cuts), *floats]), "disable_all")
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
                result.exact.floats(o if outside else f"{o} from random states", expected[o], computed[o])

    for feed in inputs.samples.batches(1, inputs.limit):
        got = attempt_run(whole, feed)
        if isinstance(got, str):
            result.notes.append(f"onnxruntime does not run the original on these inputs: {got}")
            return
        states = {c.oracle: got[c.oracle] for c in cuts}
        fed = {c.rewritten: c.split(states[c.oracle]) for c in cuts}
        if pieces is None or any(fed[c.rewritten].shape != fed_shapes[c.rewritten] for c in cuts):
            fed_shapes = {k: v.shape for k, v in fed.items()}
            model, outputs = cut(rewritten, fed)
            pieces = attempt(model, "disable_all")
        if isinstance(pieces, str):
            result.fail(f"onnxruntime does not load the rewritten model cut into layers: {pieces}")
            return
        computed = attempt_run(pieces, {**feed, **{k: v for k, v in fed.items() if k in outputs}})
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
        rng = np.random.default_rng(inputs.seed)
        size = sum(v.size for v in states.values()) if rough_size(truth, 0) <= LARGE else SMALL
        stressed: Session | str | None = None
        truth_names: dict[str, str] = {}
        for turn in range(9 if size < SMALL else 3):
            random = stress(states, cuts, limits, rng, turn)
            if stressed is None:
                truth_cut, truth_names = cut(expose(truth, floats), random)
                stressed = attempt(truth_cut, "disable_all")
            if isinstance(stressed, str):
                result.notes.append(f"the oracle cut into layers does not load: {stressed}")
                break
            fed = {c.rewritten: c.split(random[c.oracle]) for c in cuts}
            expected = attempt_run(stressed, {**feed, **{k: v for k, v in random.items() if k in truth_names}})
            computed = attempt_run(pieces, {**feed, **{k: v for k, v in fed.items() if k in outputs}})
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
    result: Verification, models: Mapping[str, onnx.ModelProto], cuts: Sequence[Cut], inputs: _Inputs
) -> None:
    """ORT_ENABLE_ALL against ORT_DISABLE_ALL.

    `models` are the "genuine" original, the "original" with the new steps, if there are any, and the "rewritten" one.
    What has to load is the genuine one.
    """
    for who in ("genuine", "rewritten"):
        loaded = attempt(models[who], "enable_all")
        if isinstance(loaded, str):
            if who == "genuine":
                result.notes.append(f"onnxruntime does not load the original at ORT_ENABLE_ALL: {loaded}")
            else:
                result.fail(f"onnxruntime loads the original at ORT_ENABLE_ALL, but not the rewritten model: {loaded}")
            return
        del loaded

    def difference(who: str, at: Callable[[Cut], str], value: Callable[[Cut, Array], Array]) -> Difference | None:
        found = between(models[who], {c: at(c) for c in cuts}, value, inputs.samples, inputs.limit)
        if isinstance(found, Difference):
            return found
        result.notes.append(f"the {who} model {found}")
        return None

    old = result.original = difference("original", lambda c: c.original, lambda _, v: v.astype(np.int64))
    if old is None:
        return
    now = result.optimized = difference("rewritten", lambda c: c.rewritten, Cut.total)
    if now is None:
        return
    if old.fraction or old.relative > RELATIVE:
        result.notes.append(
            f"the original itself differs between the two levels: {old.fraction:.3%} of its quantized values, "
            f"by up to {old.max_steps} steps"
        )
    if excess(now, old):
        result.fail(
            f"at ORT_ENABLE_ALL {now.fraction:.3%} of the quantized values differ from ORT_DISABLE_ALL by up to "
            f"{now.max_steps} steps ('{now.worst}'); in the original {old.fraction:.3%} by up to {old.max_steps}"
        )
