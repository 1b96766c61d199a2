"""Does the rewritten model do exactly what it claims?  Layer by layer, in onnxruntime.

A deep quantized network amplifies one flipped rounding into another answer, so two models cannot be compared by their
outputs.  Instead both are *cut* at every quantized activation: each piece gets the same integers and must give the
same integers.  The yardstick is the oracle: the original with wide fake-quantizers (`onnx_ocs.verification.oracle`).

- At ORT_DISABLE_ALL, rewritten against oracle, on the samples' own activations and on random ones that fill the wide
  range: no value may differ by more than one step, and by one only where the exact value lies on a rounding tie.
- At ORT_ENABLE_ALL, rewritten against itself at ORT_DISABLE_ALL (`onnx_ocs.verification.optimizer`); what the original
  already shows is not held against the rewrite.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnx_ocs.calibration.samples import Samples
from onnx_ocs.errors import UserError, first_line
from onnx_ocs.model.checker import complaint
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.model.sizes import rough_size, without_side_files
from onnx_ocs.probes.cuts import Cut, find_cuts, nibbles
from onnx_ocs.probes.rescaled import rescaled
from onnx_ocs.probes.retyped import retyped
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.records.branches import read_branches
from onnx_ocs.records.types import read_unsigned
from onnx_ocs.regions.wide import Wide
from onnx_ocs.runtime.cpu import may_saturate
from onnx_ocs.runtime.instrument import as_bytes
from onnx_ocs.runtime.memory import give_back
from onnx_ocs.runtime.session import RUN_ERRORS, attempt
from onnx_ocs.verification.branches import check_branches
from onnx_ocs.verification.comparison import DAMAGED
from onnx_ocs.verification.difference import Difference
from onnx_ocs.verification.exact import LARGE, RELATIVE, Inputs, compare_exactly
from onnx_ocs.verification.optimizer import between, excess
from onnx_ocs.verification.oracle import WideQuantizer, oracle
from onnx_ocs.verification.refitted import check_refitted, substituted
from onnx_ocs.verification.regridded import regridded
from onnx_ocs.verification.saturation import saturation
from onnx_ocs.verification.strip import strange_constants, without_branches
from onnx_ocs.verification.structure import Structure, compare
from onnx_ocs.verification.values import Differs
from onnx_ocs.verification.verdict import Verification

__all__ = ["verify"]

_LOG = logging.getLogger("onnx_ocs.verification")
IO = "graph inputs, outputs or opsets are not those of the original"


def _structure(result: Verification, original: onnx.ModelProto, rewritten: onnx.ModelProto) -> None:
    def signature(m: onnx.ModelProto) -> list[Any]:
        return [v.SerializeToString(deterministic=True) for g in (m.graph.input, m.graph.output) for v in g]

    if signature(original) != signature(rewritten):
        result.io_unchanged = False
        result.fail(IO)
    original, rewritten = without_side_files(original), without_side_files(rewritten)
    for full in (True, False):
        why = complaint(original, full, 160)
        if why is not None:
            result.notes.append(f"onnx.checker (full_check={full}) rejects the original: {why}")
            result.checker = "the original is rejected"
            continue
        why = complaint(rewritten, full)
        result.checker = why or ("ok (full)" if full else "ok")
        if why is not None:
            result.fail(f"onnx.checker rejects the rewritten model: {why}")
        return


def _opsets(result: Verification, yardstick: onnx.ModelProto, rewritten: onnx.ModelProto) -> None:
    """16 bits may ask for onnxruntime's own operators; nothing else does."""
    theirs, ours = (sorted((o.domain, o.version) for o in m.opset_import) for m in (yardstick, rewritten))
    if theirs != ours:
        result.io_unchanged = False
        result.fail(IO)


def _yardstick(result: Verification, original: onnx.ModelProto, rewritten: onnx.ModelProto) -> onnx.ModelProto | None:
    """The original with the declared grids and types of integers; None where that cannot be."""
    try:
        found, result.regridded = regridded(original, rewritten)
    except Differs as d:
        result.fail(str(d))
        return None
    except DAMAGED as e:
        result.fail(f"the new grids that the rewritten model declares cannot be ({type(e).__name__}: {e})")
        return None
    if result.regridded and not isinstance(attempt(original, "disable_all"), str):
        new = attempt(found, "disable_all")
        if isinstance(new, str):
            result.fail(f"onnxruntime loads the original, but not with the declared grids: {new}")
            return None
    retypes = read_unsigned(rewritten) - read_unsigned(original)
    try:  # the yardstick stores the same integers without a sign
        return retyped(found, retypes) if retypes else found
    except ValueError as e:
        result.fail(str(e))
        return None


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
    inputs = Inputs(samples, limit, seed)
    _structure(result, original, rewritten)
    yardstick = _yardstick(result, original, rewritten)
    if yardstick is None:
        _log(result)
        return result
    _opsets(result, yardstick, rewritten)
    try:
        given, found = read_branches(original), read_branches(rewritten)
        result.branches = len(found)
        entries = [b.entry for b in given]
        added = [b for b in found if b.entry not in entries]
        for why in strange_constants(rewritten, added):
            result.fail(why)
        kept = {t.name for t in original.graph.initializer}
        bare = without_branches(rewritten, added, kept) if added else rewritten
    except (ValueError, KeyError, TypeError, UserError) as e:
        result.fail(f"the branches that the rewritten model carries cannot be read ({type(e).__name__}: {e})")
        _log(result)
        return result
    for b in given:  # a pass that ran on a compensated model leaves its branches as they are
        if b.entry not in [f.entry for f in found]:
            result.fail(f"the branch at '{b.output}' of the original is missing or another one")
    structure = compare(yardstick, bare)
    result.notes += structure.notes
    for why in structure.failures:
        result.fail(why)
    if result.verdict == "PASSED":
        if original.SerializeToString(deterministic=True) == rewritten.SerializeToString(deterministic=True):
            result.notes.append("the two models are one and the same: nothing was rewritten between them")
        _translation(result, yardstick, bare, structure, inputs)
    if result.branches and result.verdict == "PASSED":
        _branches(result, original, rewritten, inputs)
    if result.verdict == "PASSED" and may_saturate() and rough_size(original, 0) <= LARGE:
        saturated = saturation(original, rewritten, next(samples.batches(1, 1)))
        result.notes += [saturated] if saturated is not None else []
    _log(result)
    return result


def _log(result: Verification) -> None:
    """One line about the verdict; what was compared for who wants to know."""
    for level in result.as_dict()["levels"]:
        _LOG.debug("%s", level)
    _LOG.info(
        "verification: %s, %d new grids, %d wide quantizers, %d other steps, %d layers fitted again, %d branches, "
        "%d of %d values differ",
        result.verdict, result.regridded, result.translated, result.rescaled, result.refitted, result.branches,
        result.exact.mismatches, result.exact.values,
    )  # fmt: skip


def _branches(
    result: Verification,
    original: onnx.ModelProto,
    rewritten: onnx.ModelProto,
    inputs: Inputs,
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
    except RUN_ERRORS as e:
        result.fail(f"the branches cannot be run ({first_line(e, 200)})")


def _translation(
    result: Verification,
    original: onnx.ModelProto,
    rewritten: onnx.ModelProto,
    structure: Structure,
    inputs: Inputs,
) -> None:
    """Quantizers that were widened or got another step, against the oracle; re-fitted layers, against numpy."""
    declared = structure.declared
    result.rescaled, result.refitted = len(declared.scales), len(declared.refitted)
    genuine = original
    if declared.scales:  # the yardstick has the new steps, and biases that follow them
        original = rescaled(original, declared.scales, structure.unfollowed, structure.steps)
    final = rewritten
    if declared.refitted:  # all but the new values is compared first
        rewritten = substituted(rewritten, structure.expected)
    before, after = Graph(original), Graph(rewritten)
    layouts = {
        name: (now, Wide(w.axis, w.origin, w.level, w.narrow, None, True, w.halved, full=w.full))
        for name, (now, w) in declared.layouts.items()
    }
    shapes = infer_shapes(original)
    wide: dict[str, WideQuantizer] = {}
    for name, (_, w) in layouts.items():
        q = read_quantizer(before, before.producer[name]) if name in before.producer else None
        if not isinstance(q, Quantizer):
            result.fail(f"the original has no quantizer '{name}', which the rewritten model claims to have widened")
            return
        tensor = before.producer[name].input[0]
        rank = len(shapes[tensor]) if tensor in shapes else None
        wide[name] = WideQuantizer(q, w.axis, *w.copies(), rank, w.halved, w.full)
    result.translated = len(wide)
    plain = attempt(original, "disable_all")
    if isinstance(plain, str):
        result.notes.append(f"onnxruntime does not load the original, so nothing could be compared: {plain}")
        return
    new = attempt(final, "disable_all")
    if isinstance(new, str):
        result.fail(f"onnxruntime loads the original but not the rewritten model: {new}")
        return
    del plain, new  # with what onnxruntime keeps for them
    truth, names = oracle(original, wide) if wide else (original, {})
    if narrow := nibbles(before):
        untouched = {t: d for t, d in narrow.items() if any(t in n.output for n in truth.graph.node)}
        truth, original = as_bytes(truth, untouched), as_bytes(original, narrow)
        rewritten, final = (as_bytes(m, nibbles(after)) for m in (rewritten, final))
    cuts = find_cuts(before, after, layouts, names)
    limits = {c.original: wide[n] for n in wide for c in cuts if c.oracle == names[n]}
    compare_exactly(result, truth, rewritten, cuts, limits, inputs)
    if wide and not result.exact.values and result.verdict == "PASSED":
        result.fail(
            "the models could not be run on these inputs, so nothing was compared: give samples that fit (--calib)"
        )
    give_back()
    if declared.refitted and result.verdict == "PASSED":
        for why in check_refitted(final, rewritten, declared.refitted, inputs.samples, inputs.limit):
            result.fail(why)
    if result.verdict == "PASSED":
        models = {"genuine": genuine, "original": original, "rewritten": final}
        _optimized(result, models, cuts, inputs)


def _optimized(
    result: Verification, models: Mapping[str, onnx.ModelProto], cuts: Sequence[Cut], inputs: Inputs
) -> None:
    """ORT_ENABLE_ALL against ORT_DISABLE_ALL.

    `models` are the "genuine" original, the "original" with the new steps, if there are any, and the "rewritten" one.
    What has to load is the genuine one.
    """
    give_back()
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
