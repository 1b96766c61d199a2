"""What a report says of time: operators that left the integers, whether time has decided, and whether a limit holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from onnx_ocs.measurement.cost import Cost
from onnx_ocs.measurement.latency import compared
from onnx_ocs.passmanager import PassResult
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.targets.registry import rules_of
from onnx_ocs.verbs.common import first_sample
from onnx_ocs.verbs.outcome import Outcome, Prepared

__all__ = ["kernel_notes", "time_notes", "what_is_left"]


def what_is_left(
    ready: Prepared, model: onnx.ModelProto, results: Mapping[str, PassResult], options: PlanOptions
) -> float | None:
    """The limit of time for a plan, behind passes that may have spent some of it: those that give 16 bits.

    Args:
        ready: what the rewrite starts from.
        model: what these passes left, which the plan is for.
        results: theirs.
        options: what is asked for.

    Returns:
        A ratio to the model's time; None for no limit.
    """
    limit = options.max_latency
    spent = _has_shorts([g for r in results.values() for g in r.grids])
    if limit is None or not spent or rules_of(options.runtime).short_as_fast:
        return limit
    took = compared(ready.original, model, first_sample(ready.original, ready.fed))
    return limit if took is None else max(limit / took.ratio, 1.0)


def _has_shorts(grids: Sequence[Mapping[str, Any]]) -> bool:
    return any(g["edit"] == "bits16" and g["status"] == "applied" for g in grids)


def time_notes(outcome: Outcome, options: PlanOptions | None) -> list[str]:
    """Sentences about a limit of time; none where there is no limit, or nothing to tell."""
    time = outcome.planned.get("time", {})
    limit = None if options is None else options.max_latency
    limit = time.get("limit") if limit is None else limit  # what was asked for; else what the plan was held to
    if limit is None or not outcome.changed:
        return []
    notes, timed = [], time.get("measured", ())
    if timed:
        notes.append(
            f"{_timed(timed)}: time decided, so another run may plan otherwise; a plan that is kept (`plan -o`) makes "
            f"the same file again"
        )
    if outcome.latency is not None and outcome.latency.exceeds(limit):
        ratio = outcome.latency.ratio
        free = options is not None and _has_shorts(outcome.grids) and rules_of(options.runtime).short_as_fast
        where = " in onnxruntime on this CPU, which has no integer kernels for 16 bits" if free else ""
        notes.append(f"the finished file takes x {ratio:.2f} of the time{where}, which is more than x {limit:.3g}")
    return notes


def _timed(measured: Sequence[Mapping[str, float]]) -> str:
    """What became of plans that were timed."""
    last, times = measured[-1], f"{len(measured)} time{'s' * (len(measured) != 1)}"
    if last["ratio"] + last["tolerance"] > last["limit"]:
        return f"copies were left out: what was timed, {times}, took longer than x {last['limit']:.3g}"
    took = f"x {last['ratio']:.2f}, to {last['tolerance']:.2f}"
    return f"the plan was timed {times} until it held x {last['limit']:.3g} ({took})"


def kernel_notes(
    costs: tuple[Cost, Cost], weighed: Mapping[str, Any] | None, grids: Sequence[Mapping[str, Any]] = ()
) -> list[str]:
    """What became of the operators that onnxruntime runs on integers.

    Args:
        costs: of the model before and after.
        weighed: what copies that cost kernels would have gained.
        grids: the report's entries.
    """
    notes = []
    mend = "it has none for 16 bits" if _has_shorts(grids) else "the mode 'integer' makes no copies there"
    lost = (costs[0].integer_kernels or 0) - (costs[1].integer_kernels or 0)
    if lost > 0:
        notes.append(
            f"{lost} of {costs[0].integer_kernels} layers with integer kernels in onnxruntime "
            f"{'has' if lost == 1 else 'have'} none or a slow one now, which costs more time than multiply-accumulates "
            f"say; {mend}"
            + (f", for {weighed['gain_db']:.2f} dB less of the objective" if weighed and not weighed["kept"] else "")
        )
    if (costs[0].integer_operators or 0) - (costs[1].integer_operators or 0) > max(lost, 0):
        notes.append(
            f"onnxruntime runs {costs[1].integer_operators} of {costs[0].integer_operators} operators on integers now, "
            f"with {costs[1].transposes} Transposes instead of {costs[0].transposes}: look at the latency"
        )
    if weighed and weighed["kept"]:
        notes.append(f"copies were left out: {weighed['why']}")
    return notes
