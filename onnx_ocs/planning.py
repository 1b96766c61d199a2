"""From samples to a plan: calibrate, weigh the tensors, allocate, measure, roll back what does not help."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnx_ocs.collect import calibrate
from onnx_ocs.cost import cost
from onnx_ocs.errors import UserError
from onnx_ocs.graph import Graph
from onnx_ocs.judge import Judge, first_feeds, held_out, worth
from onnx_ocs.manager import Context
from onnx_ocs.plan_options import PlanOptions
from onnx_ocs.planner import Budget, Choice, Planner
from onnx_ocs.plans import Plan, early_or_late
from onnx_ocs.quality import Quality
from onnx_ocs.region import find_regions
from onnx_ocs.runtime import as_written
from onnx_ocs.shapes import infer_shapes
from onnx_ocs.stats import Statistics, fingerprint
from onnx_ocs.switchboard import Switchboard
from onnx_ocs.target import Probe, search
from onnx_ocs.trials import affordable, best_plan, improve, with_all
from onnx_ocs.weighing import harmful, weigh
from onnx_ocs.widen import widened

__all__ = ["make_plan"]

SCREENED = 2  # samples on which tensors whose step alone could be changed are looked at
JUDGING_MACS = 1e12  # for all comparisons of plans together, on any machine, so that plans are the same on all
LEARNT = 0  # the half of the samples that plans are made from; they are judged on the other
AS_IT_IS = "the model as it is"


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
    board = Switchboard(model, regions, symbolic)
    if options.stats is not None and options.stats.exists():
        statistics = Statistics.load(options.stats, model_hash, regions)
    else:
        few = {k: v[:SCREENED] for k, v in learn[0].items()} if divisible else learn[0]
        steps = harmful(board, regions, few, context.progress) if options.rescale else []
        statistics = calibrate(model, regions, context, model_hash, options.jobs, steps)
        if options.stats is not None:
            statistics.save(options.stats)
    planner = Planner(
        graph, regions, shapes, statistics, options.mode, options.copies,
        [options.allows(r.tensor) for r in regions], options.align,
    )  # fmt: skip
    if not options.rescale:
        planner.candidates = [c for c in planner.candidates if c.shares]
    if not planner.candidates:
        none = {"extra_macs": 0.0, "mean_copies": 0.0, "regions": 0, "chosen": "nothing to change"}
        nothing: dict[str, Any] = {"chosen": "nothing to change", "candidates": {}, "rolled_back": []}
        if options.target is not None and measure is not None:
            value = options.target.value(measure(Plan(model_hash, ())))
            nothing["target"] = {**options.target.outcome(value), "probes": []}
        return Plan(model_hash, (), none), nothing
    planner.tabulate(options.rescale, LEARNT)
    weigh(planner, board, learn, context.progress)
    judgements = 16 + 2 * len(planner.candidates)
    wanted = max(8, int(JUDGING_MACS / max(planner.total * judgements, 1)))
    truth = None if float_model is None else as_written(float_model)
    judge = Judge(board, first_feeds(held, wanted), truth, options.objective)

    def check() -> Judge:
        """The objective on the samples that plans are made from."""
        return Judge(board, first_feeds(learn, wanted), truth, options.objective)

    def price(choices: Mapping[int, Choice]) -> float:
        return _extra_macs(model, planner, choices, one)

    before = judge(planner.settings({}))
    found: dict[str, Any] = {"objective": judge.objective, "before": before, "candidates": {}}
    if options.target is None:
        budget = Budget(options.budget, options.ratio)
        if options.budget is not None:  # the price list is a little off where copies travel on: correct it once
            planner.prepare(options.copies)
            planner.weigh(1.0)
            first = planner.allocate(budget, options.rescale)
            real = price(first)
            if real > options.budget:
                budget = Budget(options.budget * planner.spend(first)[0] / real, None)
        dropped: list[int] = []
        made = best_plan(planner, judge, budget, options, context.progress, found["candidates"])
        if options.effort == "full":
            made, dropped = improve(
                planner, judge, check(), budget, options, made, context.progress, found["candidates"]
            )
        unseen = judge(planner.settings(made.choices))  # by samples that this plan was not made from
        again = with_all(planner, made, dropped, budget, options.rescale)
        # that plan has seen the samples it is judged on: if it is no better even so, the other one is kept
        more = judge(planner.settings(again))[0] < unseen[0]
        name, choices = made.name, again if more else made.choices
        if options.budget is not None:
            choices = affordable(price, planner, choices, dropped, options.budget, options.rescale)
        after = judge(planner.settings(choices))
    else:
        assert measure is not None
        judged = measure

        def quality(choices: Mapping[int, Choice]) -> Quality:
            return judged(Plan(model_hash, planner.planned(choices)))

        name, choices, dropped = _reach(planner, judge, check(), options, context, price, quality, found)
        unseen = after = judge(planner.settings(choices))
    if options.target is None and not (
        worth(before, after, judge.objective) and worth(before, unseen, judge.objective)
    ):
        name, choices, after = AS_IT_IS, {}, before
    found |= {"chosen": name, "after": after, "unseen": unseen, "rolled_back": [regions[k].tensor for k in dropped]}
    if budgets:  # these, too, are judged on samples that they are not made from
        planner.tabulate(options.rescale, LEARNT)
        found["sweep"] = [_point(planner, judge, Budget(b, None), options) for b in sorted(budgets)]
    predicted = {
        **planner.describe(choices),
        "extra_macs": price(choices),
        "chosen": name,
        "objective": judge.objective,
        "objective_before": before[0],
        "objective_after": after[0],
        "sqnr_before_db": _finite(before[1]),
        "sqnr_after_db": _finite(after[1]),
    }
    return Plan(model_hash, planner.planned(choices), predicted), found


def _reach(
    planner: Planner,
    judge: Judge,
    check: Judge,
    options: PlanOptions,
    context: Context,
    price: Callable[[Mapping[int, Choice]], float],
    quality: Callable[[Mapping[int, Choice]], Quality],
    found: dict[str, Any],
) -> tuple[str, dict[int, Choice], list[int]]:
    """The cheapest plan that reaches the target, by the quality of the models that the plans make."""
    target = options.target
    assert target is not None
    in_macs = options.ratio is None
    limit = options.budget if in_macs else options.ratio
    log: list[dict[str, Any]] = []
    probes: list[Probe] = []

    def budget(amount: float) -> Budget:
        return Budget(amount, None) if in_macs else Budget(None, amount)

    def probe(allowed: float, name: str, choices: dict[int, Choice], dropped: Sequence[int] = ()) -> Probe:
        if in_macs:
            choices = affordable(price, planner, choices, dropped, allowed, options.rescale)
        macs, ratio = price(choices), planner.spend(choices)[1]
        value = target.value(quality(choices))
        log.append({"allowed": allowed, "plan": name, "extra_macs": macs, "mean_copies": ratio, "got": value})
        probes.append(Probe(allowed, macs if in_macs else ratio, value, (name, choices, dropped)))
        return probes[-1]

    def quick(amount: float) -> Probe:
        made = best_plan(planner, judge, budget(amount), options, context.progress, {})
        return probe(amount, made.name, made.choices)

    def thorough(amount: float) -> Probe:
        log_to = found["candidates"]
        made = best_plan(planner, judge, budget(amount), options, context.progress, log_to)
        made, dropped = improve(planner, judge, check, budget(amount), options, made, context.progress, log_to)
        return probe(amount, made.name, made.choices, dropped)

    as_it_is = probe(0.0, AS_IT_IS, {})
    best = search(as_it_is, quick, thorough, np.inf if limit is None else limit, target.wanted)
    found["target"] = {**target.outcome(best.value), "probes": log}
    for entry, p in zip(log, probes, strict=True):
        entry["chosen"] = p is best
    name, choices, dropped = best.plan
    return name, choices, dropped


def _extra_macs(
    model: onnx.ModelProto, planner: Planner, choices: Mapping[int, Choice], one: Mapping[str, Sequence[int]]
) -> float:
    """Share of extra MACs of a plan, measured on the widened model."""
    copied = [p for p in planner.planned(choices) if p.copies.any() or p.copies_low.any()]
    new = widened(model, lambda graph, of: [early_or_late(graph, of[p.tensor, p.quantizers], p) for p in copied])
    return cost(new, one, kernels=False).macs / max(planner.total, 1) - 1


def _point(planner: Planner, judge: Judge, budget: Budget, options: PlanOptions) -> dict[str, Any]:
    """One point of the sweep."""
    made = best_plan(planner, judge, budget, options, lambda *_: None, {})
    name, choices = made.name, made.choices
    value, sqnr = judge(planner.settings(choices))
    return {"budget": budget.macs, "chosen": name, "objective": value, "sqnr_db": sqnr, **planner.describe(choices)}
