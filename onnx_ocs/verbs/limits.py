"""What a report says of a limit of time: whether time has decided, and whether the finished file holds it."""

from __future__ import annotations

from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.verbs.outcome import Outcome

__all__ = ["time_notes"]


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
