"""What of a rewrite may be worth having where the whole of it loses: without one of its passes, or steps alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import Pass
from onnx_ocs.planning.options import PlanOptions

__all__ = ["parts_of"]


def parts_of(
    passes: Sequence[Pass], options: PlanOptions | None, regions: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, list[Pass], PlanOptions | None]]:
    """The parts that are tried, each with what it goes without, in words.

    Args:
        passes: of the whole, the `Translate` among them with its plan.
        options: what was planned by.
        regions: the report's entries of the whole.

    Yields:
        What is dropped, the passes that are left, and what is planned anew for them.
    """
    planned_at = next((k for k, p in enumerate(passes) if isinstance(p, Translate) and p.plan is not None), 0)
    for k, p in enumerate(passes if len(passes) > 1 else ()):
        ahead = k < planned_at  # the plan was made for the model that this pass left
        if not ahead or options is not None:
            yield f"the pass '{p.name}'", [*passes[:k], *passes[k + 1 :]], options if ahead else None
    copied = any(e.get("status") == "applied" and any((*e["copies"], *e["copies_low"])) for e in regions)
    if copied and options is not None and options.target is None and options.rescale:
        planned = [p for p in passes if isinstance(p, Translate)]
        steps = replace(options, budget=0.0, ratio=None)
        yield "copies of channels", list(passes), steps
        if len(passes) > len(planned):
            yield "copies of channels and further passes", list[Pass](planned), steps
