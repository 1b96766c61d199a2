"""What a report says of time: operators that left the integers, whether time has decided, and whether a limit holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnx_ocs.measurement.cost import Cost
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.verbs.outcome import Outcome

__all__ = ["kernel_notes", "time_notes"]


def time_notes(outcome: Outcome, options: PlanOptions | None) -> list[str]:
    """Sentences about a limit of time; none where there is no limit, or nothing to tell."""
    limit = None if options is None else options.max_latency
    if limit is None or not outcome.changed:
        return []
    notes, timed = [], outcome.planned.get("time", {}).get("measured", ())
    if timed:
        last = timed[-1]
        notes.append(
            f"the plan was timed {len(timed)} times until it held x {limit:g} (x {last['ratio']:.2f}, to "
            f"{last['tolerance']:.2f}): time decided, so another run may plan otherwise; a plan that is kept "
            f"(`plan -o`) makes the same file again"
        )
    if outcome.latency is not None and outcome.latency.exceeds(limit):
        ratio = outcome.latency.ratio
        notes.append(f"the finished file takes x {ratio:.2f} of the time, which is more than x {limit:g}")
    return notes


def kernel_notes(costs: tuple[Cost, Cost], weighed: Mapping[str, Any] | None) -> list[str]:
    """What became of the operators that onnxruntime runs on integers."""
    notes = []
    lost = (costs[0].integer_kernels or 0) - (costs[1].integer_kernels or 0)
    if lost > 0:
        notes.append(
            f"{lost} of {costs[0].integer_kernels} layers with integer kernels in onnxruntime "
            f"{'has' if lost == 1 else 'have'} none or a slow one now, which costs more time than multiply-accumulates "
            f"say; the mode 'integer' makes no copies there"
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
