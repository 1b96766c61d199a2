"""Plans that take far longer than their multiply-accumulates say are made again, within what these say.

A budget counts multiply-accumulates, and so the same input gives the same plan on any machine.  But late copies and
copies that are folded back move values through memory and take several times as long.  So it is first counted, whether
the values that a plan moves take so long, and then measured: most plans are not timed and keep their bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import onnx

from onnx_ocs.measurement.cost import layer_macs
from onnx_ocs.measurement.latency import decided
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.planning.budget import Judged, Spending
from onnx_ocs.planning.choices import makes_copies
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.timely import Look

__all__ = ["FAR", "TooSlow", "too_slow"]

FAR = 1.3  # times what multiply-accumulates say, beyond which a plan is made again
# Multiply-accumulates in the time of a value that a node moves: 3.5 (float) to 8 (half of the layers on integers) were
# measured in CNNs; far fewer than in transformers (`onnx_ocs.planning.foldable.PASS`), so what is counted is the least.
MOVED = 6


@dataclass(frozen=True)
class TooSlow:
    """What follows where a plan takes far too long.

    Attributes:
        options: what is asked for instead: a limit of time beside the budget.
        measured: what the plan took, as the report tells it.
    """

    options: PlanOptions
    measured: dict[str, float]


def too_slow(spending: Spending, judged: Judged) -> TooSlow | None:
    """Whether a plan within a budget takes far longer than what it adds.

    Args:
        spending: what made it.
        judged: the plan.

    Returns:
        What is asked for instead; None if it does not.
    """
    options, choices = spending.options, judged.trial.choices
    if options.pace is None or options.max_latency is not None or not options.budget or not makes_copies(choices):
        return None
    new = spending.carried_out(choices)
    as_macs_say = 1 + spending.share(new)
    far = FAR * as_macs_say
    moved = _values(new, spending.one) - _values(spending.model, spending.one)
    if as_macs_say + MOVED * moved / max(spending.problem.total, 1) <= far:
        return None
    took = decided(partial(spending.timed, new), far)
    if took is None or not took.exceeds(far):
        return None
    seen = Look(judged.trial, took.ratio - 1, took, far)
    return TooSlow(replace(options, max_latency=options.pace * (1 + options.budget)), seen.entry)


def _values(model: onnx.ModelProto, one: Mapping[str, Sequence[int]]) -> int:
    """How many values a model's nodes write for one sample, layers and constants aside."""
    graph, shapes = Graph(model), infer_shapes(model, one)
    moving = (n for n in graph.nodes if not layer_macs(n, shapes) and not graph.is_constant(n.output[0]))
    sizes = (shapes.get(o) or () for n in moving for o in n.output)
    return sum(math.prod(d for d in s if isinstance(d, int)) for s in sizes if s)
