"""From samples to a plan: calibrate, weigh the tensors, search, and tell what the plan is like."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import onnx

from onnx_ocs.calibration.collect import calibrate, counted_before
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import Samples
from onnx_ocs.calibration.shards import place_of
from onnx_ocs.calibration.statistics import Statistics
from onnx_ocs.calibration.stream import BATCH
from onnx_ocs.calibration.taken import Taken
from onnx_ocs.errors import UserError
from onnx_ocs.measurement.cost import layer_macs
from onnx_ocs.measurement.quality import Quality
from onnx_ocs.measurement.yardstick import Output, outputs_of
from onnx_ocs.model.files import fingerprint
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array
from onnx_ocs.model.shapes import Shape, infer_shapes
from onnx_ocs.planning.budget import Judged, Spending
from onnx_ocs.planning.choices import Budget
from onnx_ocs.planning.fitted import behind_a_fit
from onnx_ocs.planning.later import later
from onnx_ocs.planning.objective import Judge, first_feeds, first_samples, held_out, looked_at
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.pace import too_slow
from onnx_ocs.planning.peaks_first import peaks_first
from onnx_ocs.planning.plan import Plan
from onnx_ocs.planning.prices import find_prices
from onnx_ocs.planning.problem import LEARNT, Problem, pose
from onnx_ocs.planning.questions import Questions, ready
from onnx_ocs.planning.search import best_plan
from onnx_ocs.planning.sensitivity import Alone, asked_on, harmful, weigh
from onnx_ocs.probes.switchboard import Switchboard
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Quantized, adjustable
from onnx_ocs.runtime.memory import give_back
from onnx_ocs.runtime.session import as_written
from onnx_ocs.targets.choice import is_timed
from onnx_ocs.targets.registry import rules_of
from onnx_ocs.targets.timing import timing_of
from onnx_ocs.translation.reach import mode_for

__all__ = ["make_plan"]

_LOG = logging.getLogger("onnx_ocs.planning")
JUDGING_MACS = 1e12  # for all comparisons of plans together, on any machine, so that plans are the same on all
ENOUGH = 64  # samples on which plans can be judged, from which working on the best one pays


@dataclass(frozen=True, eq=False)
class _Bench:
    """What a model and its samples are, before anything is planned.

    Attributes:
        hash: the model's fingerprint.
        graph: its graph.
        regions: its quantized activations.
        board: the model with switched quantizers.
        learn: feeds that tensors are weighed with.
        held: feeds that plans are judged on.
        one: shapes of its inputs for one sample.
        shapes: shapes of all its tensors for one sample.
        statistics: histograms of its activations.
        outputs: what is compared of the model with the reference.
        alone: what quantizers do by themselves, on some samples.
        ask: makes workers ready to answer questions about some feeds; None: this process answers.
    """

    hash: str
    graph: Graph
    regions: Sequence[Quantized]
    board: Switchboard
    learn: Sequence[Taken]
    held: Sequence[Taken]
    one: Mapping[str, Sequence[int]]
    shapes: Mapping[str, Shape]
    statistics: Statistics
    outputs: Sequence[Output]
    alone: Alone
    ask: Callable[[Sequence[Taken]], Questions | None]

    @property
    def sample(self) -> dict[str, Array]:
        """One sample, that models are timed on."""
        return {k: v[: self.one[k][0]] if v.ndim else v for k, v in self.learn[0].items()}


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
        measure: the quality of the model that a plan makes; for a target, and where weights are fitted behind the plan.

    Returns:
        The plan, and what was found on the way: candidates' objectives, regions rolled back, the target's probes, the
        sweep.

    Raises:
        UserError: no samples, or the model does not run on them.
    """
    if context.samples is None:
        raise UserError("planning needs calibration samples: give --calib")
    options = _for_target(options)
    bench = _bench(model, options, context, context.samples, float_model)
    excluded = tuple(dict.fromkeys(r.tensor for r in bench.regions if not options.allows(r.tensor)))
    problem = _posed(bench, options)
    if not problem.candidates:
        _LOG.info("plan: nothing to change")
        return _nothing(bench.hash, excluded, options, measure)
    damage = weigh(problem, bench.alone, context.progress)
    problem = _priced(model, bench, problem.damaged(damage), options, context)
    spending = _spending(model, bench, problem, options, context, float_model)
    found: dict[str, Any] = {
        "objective": spending.judge.objective, "effort": spending.options.effort, "before": spending.before,
        "candidates": {},
    }  # fmt: skip
    if options.target is not None:
        if measure is None:
            raise ValueError("a target needs `measure`")
        judged = spending.reach(options.target, measure, found)
    else:
        weighed = partial(_weighed, lambda o: _posed(bench, o).damaged(damage))
        best, start = partial(_in_time, weighed, partial(_priced, model, bench, context=context)), spending
        spending, judged = best(start, found)
        if options.refitted and measure is not None:
            spending, judged = behind_a_fit((spending, judged), start, best, measure, found)
    trial = judged.trial
    found |= {"chosen": trial.name, "after": judged.after, "unseen": judged.unseen}
    found["rolled_back"] = [bench.regions[k].tensor for k in trial.dropped]
    if budgets:  # these, too, are judged on samples that they are not made from
        learnt = spending.problem.on(LEARNT)
        found["sweep"] = [_point(learnt, spending, Budget(b, None)) for b in sorted(budgets)]
    made = Plan(bench.hash, spending.problem.planned(trial.choices), _predicted(spending, judged), excluded)
    _log(made, spending)
    return made, found


def _in_time(
    best: Callable[[Spending, dict[str, Any]], tuple[Spending, Judged]],
    priced: Callable[[Problem, PlanOptions], Problem],
    start: Spending,
    found: dict[str, Any],
) -> tuple[Spending, Judged]:
    """The best plan; made again with prices in time where it takes far too long."""
    made = best(start, found)
    slow = too_slow(*made)
    if slow is None:
        return made
    found.pop("kernels", None)  # of the other plan
    made = best(replace(start, options=slow.options, problem=priced(start.problem, slow.options)), found)
    found["time"]["measured"].insert(0, slow.measured)
    return made


def _weighed(
    pose_again: Callable[[PlanOptions], Problem], spending: Spending, found: dict[str, Any]
) -> tuple[Spending, Judged]:
    """The best plan; of mode "auto" against one of late copies alone, and one that costs no integer operators."""
    options = spending.options
    judged = peaks_first(spending, spending.within(found["candidates"], found), found)
    limited = options.max_latency is not None and (options.pace is None or is_timed(options.runtime))
    if options.mode != "auto" or options.budget is None or limited:
        return spending, judged
    judged, problem = later(spending, judged, lambda: pose_again(replace(options, mode="late")), found)
    spending = replace(spending, problem=problem)
    judged, problem = spending.sparing(judged, lambda: pose_again(replace(options, mode="integer")), found)
    return replace(spending, problem=problem), judged


def _for_target(options: PlanOptions) -> PlanOptions:
    """The options within what a target allows, and with the channels that it wants where the user says nothing."""
    rules = rules_of(options.runtime)
    align = rules.align if options.align == 1 else options.align
    return replace(options, mode=mode_for(options.mode, rules), align=align)


def _log(made: Plan, spending: Spending) -> None:
    """One line about the plan, and one about every tensor for who wants to know."""
    p = made.predicted
    for r in made.regions:
        _LOG.debug("'%s': %s, %d copies, step %s", r.tensor, r.mode, r.copies.sum() + r.copies_low.sum(), r.scale)
    _LOG.info(
        "plan: %s, %d of %d tensors, %+.1f %% MACs, SQNR %.2f -> %.2f dB on held-out samples",
        p["chosen"], len(made.regions), len(spending.problem.candidates), 100 * p["extra_macs"],
        *(np.inf if p[k] is None else p[k] for k in ("sqnr_before_db", "sqnr_after_db")),
    )  # fmt: skip


def _bench(
    model: onnx.ModelProto,
    options: PlanOptions,
    context: Context,
    samples: Samples,
    float_model: onnx.ModelProto | None,
) -> _Bench:
    """Read the model, and calibrate it."""
    graph, symbolic = Graph(model), infer_shapes(model)
    regions = find_regions(graph, symbolic, bounded=context.bounded)
    inputs = {i.name for i in model.graph.input}
    divisible = not any(s and isinstance(s[0], int) for t, s in symbolic.items() if t in inputs)
    learn, held = held_out(samples, context.limit, divisible)
    one = {
        k: [1 if not isinstance(symbolic.get(k, (1,))[0], int) else v.shape[0], *v.shape[1:]]
        for k, v in learn[0].items()
    }
    model_hash = fingerprint(model)
    outputs = outputs_of(model if float_model is None else float_model, model, context.judging)
    asked = [o.name for o in outputs if o.weight > 0 or context.judging.metric is not None]
    board = Switchboard(model, regions, symbolic, example=learn[0] if divisible else None, outputs=asked)
    place = place_of(samples, looked_at(samples, context.limit), BATCH)
    ask = ready(context.engine, model, model_hash, float_model, context.bounded, board, place)
    shapes = infer_shapes(model, one)
    macs = sum(layer_macs(n, shapes) for n in graph.nodes)
    first = first_samples(learn, asked_on(macs, len(adjustable(regions))), divisible)
    alone = Alone(board, first, outputs, ask(first))

    def steps() -> list[int]:
        return harmful(alone, regions, context.progress) if options.rescale else []

    if options.stats is not None and options.stats.exists():
        statistics = counted_before(options.stats, model_hash, regions, steps, options.budget != 0)
    else:
        screened = steps()
        board.forget()  # calibration needs the memory
        give_back()
        statistics = calibrate(model, regions, context, model_hash, screened, apart=options.budget != 0)
        if options.stats is not None:
            context.write(options.stats, statistics.to_bytes())
    give_back()
    return _Bench(model_hash, graph, regions, board, learn, held, one, shapes, statistics, outputs, alone, ask)


def _posed(bench: _Bench, options: PlanOptions) -> Problem:
    return pose(bench.graph, bench.regions, bench.shapes, bench.statistics, options)


def _priced(
    model: onnx.ModelProto, bench: _Bench, problem: Problem, options: PlanOptions, context: Context
) -> Problem:
    """The same with prices in time, where time limits what may be spent; without copies nobody asks."""
    if options.max_latency is None or options.budget == 0:
        return problem
    wanted, total = problem.candidates, problem.total
    on = timing_of(options.runtime)
    prices = find_prices(model, bench.graph, bench.shapes, wanted, total, bench.sample, on, context.progress)
    return replace(problem, prices=prices)


def _spending(
    model: onnx.ModelProto,
    bench: _Bench,
    problem: Problem,
    options: PlanOptions,
    context: Context,
    float_model: onnx.ModelProto | None,
) -> Spending:
    """Judges on as many samples as the machine's share of work allows, and what is done for the plan."""
    judgements = 16 + 2 * len(problem.candidates)
    wanted = max(8, int(JUDGING_MACS / max(problem.total * judgements, 1)))
    if options.effort == "auto":
        options = replace(options, effort="full" if wanted >= ENOUGH else "quick")
    truth = None if float_model is None else as_written(float_model)
    metric = context.judging.metric

    def judge_of(feeds: Sequence[Taken]) -> Judge:
        some = first_feeds(feeds, wanted)
        return Judge(bench.board, some, truth, options.objective, bench.outputs, metric, bench.ask(some))

    judge = judge_of(bench.held)

    @cache
    def check() -> Judge:
        """The objective on the samples that plans are made from."""
        return judge_of(bench.learn)

    before = judge(problem.settings({}))
    return Spending(model, bench.hash, problem, judge, check, options, context, bench.one, bench.sample, before)


def _nothing(
    model_hash: str, excluded: tuple[str, ...], options: PlanOptions, measure: Callable[[Plan], Quality] | None
) -> tuple[Plan, dict[str, Any]]:
    """The plan of a model where nothing can be changed."""
    none = {"extra_macs": 0.0, "mean_copies": 0.0, "regions": 0, "chosen": "nothing to change"}
    found: dict[str, Any] = {"chosen": "nothing to change", "candidates": {}, "rolled_back": []}
    if options.target is not None and measure is not None:
        value = options.target.value(measure(Plan(model_hash, ())))
        found["target"] = {**options.target.outcome(value), "probes": []}
    return Plan(model_hash, (), none, excluded), found


def _predicted(spending: Spending, judged: Judged) -> dict[str, Any]:
    """Cost and gain as they were measured."""
    choices, before, after = judged.trial.choices, spending.before, judged.after
    judge, problem = spending.judge, spending.problem
    metrics = {}
    if judge.metric is not None:
        settings = {"before": problem.settings({}), "after": problem.settings(choices)}
        metrics = {f"metric_{when}": judge.measured(s) for when, s in settings.items()}
    return {
        **problem.describe(choices),
        **metrics,
        "extra_macs": spending.price(choices),
        "chosen": judged.trial.name,
        "objective": spending.judge.objective,
        "objective_before": before[0],
        "objective_after": after[0],
        "sqnr_before_db": _finite(before[1]),
        "sqnr_after_db": _finite(after[1]),
    }


def _finite(value: float) -> float | None:
    """A number that JSON has a word for."""
    return value if np.isfinite(value) else None


def _point(learnt: Problem, spending: Spending, budget: Budget) -> dict[str, Any]:
    """One point of the sweep."""
    trial = best_plan(learnt, spending.judge, budget, spending.options, lambda *_: None, {})
    value, sqnr = spending.objective(trial.choices)
    found = {"budget": budget.macs, "chosen": trial.name, "objective": value, "sqnr_db": sqnr}
    return {**found, **learnt.describe(trial.choices)}
