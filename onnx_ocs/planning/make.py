"""From samples to a plan: calibrate, weigh the tensors, search, and tell what the plan is like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnx

from onnx_ocs.calibration.collect import calibrate
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.statistics import Statistics
from onnx_ocs.errors import UserError
from onnx_ocs.measurement.quality import Quality
from onnx_ocs.model.files import fingerprint
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.planning.allocate import Budget, Planner
from onnx_ocs.planning.budget import Spending
from onnx_ocs.planning.objective import Judge, first_feeds, held_out
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.plan import Plan
from onnx_ocs.planning.search import best_plan
from onnx_ocs.planning.sensitivity import harmful, weigh
from onnx_ocs.probes.switchboard import Switchboard
from onnx_ocs.regions.find import find_regions
from onnx_ocs.runtime.session import as_written
from onnx_ocs.translation.decision import Mode

__all__ = ["make_plan"]

SCREENED = 2  # samples on which tensors whose step alone could be changed are looked at
JUDGING_MACS = 1e12  # for all comparisons of plans together, on any machine, so that plans are the same on all
ENOUGH = 64  # samples on which plans can be judged, from which working on the best one pays
LEARNT = 0  # the half of the samples that plans are made from; they are judged on the other


def _finite(value: float) -> float | None:
    """A number that JSON has a word for."""
    return value if np.isfinite(value) else None


def make_plan(
    model: onnx.ModelProto,
    options: PlanOptions,
    context: Context,
    float_model: onnx.ModelProto | None = None,
    budgets: Sequence[float] = (),
    measure: Callable[[Plan], Quality] | None = None,
) -> tuple[Plan, dict[str, Any]]:
    """Plan a rewrite.

    Args:
        model: the QDQ model; not changed.
        options: budget and limits.
        context: calibration samples (needed), progress.
        float_model: the reference; default: the model without activation quantizers.
        budgets: further budgets for a sweep.
        measure: the quality of the model that a plan makes; for a target.

    Returns:
        The plan, and what was found on the way: candidates' objectives, regions rolled back, the target's probes, the
        sweep.

    Raises:
        UserError: no samples, or the model does not run on them.
    """
    if context.samples is None:
        raise UserError("planning needs calibration samples: give --calib")
    graph = Graph(model)
    symbolic = infer_shapes(model)
    regions = find_regions(graph, symbolic)
    inputs = {i.name for i in model.graph.input}
    divisible = not any(s and isinstance(s[0], int) for t, s in symbolic.items() if t in inputs)
    learn, held = held_out(context.samples, context.limit, divisible)
    one = {
        k: [1 if not isinstance(symbolic.get(k, (1,))[0], int) else v.shape[0], *v.shape[1:]]
        for k, v in learn[0].items()
    }
    shapes = infer_shapes(model, one)
    model_hash = fingerprint(model)
    board = Switchboard(model, regions, symbolic, example=learn[0] if divisible else None)
    if options.stats is not None and options.stats.exists():
        statistics = Statistics.load(options.stats, model_hash, regions)
    else:
        few = {k: v[:SCREENED] for k, v in learn[0].items()} if divisible else learn[0]
        steps = harmful(board, regions, few, context.progress) if options.rescale else []
        statistics = calibrate(model, regions, context, model_hash, options.jobs, steps)
        if options.stats is not None:
            statistics.save(options.stats)

    def candidates(mode: Mode) -> Planner:
        allowed = [options.allows(r.tensor) for r in regions]
        made = Planner(graph, regions, shapes, statistics, mode, options.copies, allowed, options.align)
        if not options.rescale:
            made.candidates = [c for c in made.candidates if c.shares]
        made.tabulate(options.rescale, LEARNT)
        return made

    planner = candidates(options.mode)
    excluded = tuple(dict.fromkeys(r.tensor for r in regions if not options.allows(r.tensor)))
    if not planner.candidates:
        none = {"extra_macs": 0.0, "mean_copies": 0.0, "regions": 0, "chosen": "nothing to change"}
        nothing: dict[str, Any] = {"chosen": "nothing to change", "candidates": {}, "rolled_back": []}
        if options.target is not None and measure is not None:
            value = options.target.value(measure(Plan(model_hash, ())))
            nothing["target"] = {**options.target.outcome(value), "probes": []}
        return Plan(model_hash, (), none, excluded), nothing
    weigh(planner, board, learn, context.progress)
    judgements = 16 + 2 * len(planner.candidates)
    wanted = max(8, int(JUDGING_MACS / max(planner.total * judgements, 1)))
    if options.effort == "auto":
        options = replace(options, effort="full" if wanted >= ENOUGH else "quick")
    truth = None if float_model is None else as_written(float_model)
    judge = Judge(board, first_feeds(held, wanted), truth, options.objective)

    @cache
    def check() -> Judge:
        """The objective on the samples that plans are made from."""
        return Judge(board, first_feeds(learn, wanted), truth, options.objective)

    def spare() -> Planner:
        """A planner that makes no copies where they cost integer kernels."""
        damages = {c.index: c.damage for c in planner.candidates}
        made = candidates("integer")
        for c in made.candidates:
            c.damage = damages[c.index]
        return made

    before = judge(planner.settings({}))
    found: dict[str, Any] = {
        "objective": judge.objective, "effort": options.effort, "before": before, "candidates": {},
    }  # fmt: skip
    spending = Spending(model, model_hash, planner, judge, check, options, context, one, before)
    if options.target is not None:
        assert measure is not None
        chosen = spending.reach(measure, found)
    else:
        chosen = spending.within(found["candidates"])
        if options.mode == "auto" and options.budget is not None:
            chosen = spending.sparing(chosen, spare, found)
        planner = spending.planner
    choices, after = chosen.choices, chosen.after
    found |= {"chosen": chosen.name, "after": after, "unseen": chosen.unseen}
    found["rolled_back"] = [regions[k].tensor for k in chosen.dropped]
    if budgets:  # these, too, are judged on samples that they are not made from
        planner.tabulate(options.rescale, LEARNT)
        found["sweep"] = [_point(planner, judge, Budget(b, None), options) for b in sorted(budgets)]
    predicted = {
        **planner.describe(choices),
        "extra_macs": spending.price(choices),
        "chosen": chosen.name,
        "objective": judge.objective,
        "objective_before": before[0],
        "objective_after": after[0],
        "sqnr_before_db": _finite(before[1]),
        "sqnr_after_db": _finite(after[1]),
    }
    return Plan(model_hash, planner.planned(choices), predicted, excluded), found


def _point(planner: Planner, judge: Judge, budget: Budget, options: PlanOptions) -> dict[str, Any]:
    """One point of the sweep."""
    made = best_plan(planner, judge, budget, options, lambda *_: None, {})
    name, choices = made.name, made.choices
    value, sqnr = judge(planner.settings(choices))
    return {"budget": budget.macs, "chosen": name, "objective": value, "sqnr_db": sqnr, **planner.describe(choices)}
