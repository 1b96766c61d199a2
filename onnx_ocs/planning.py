"""From samples to a plan: calibrate, weigh the tensors, allocate, measure, roll back what does not help."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from onnx_ocs.activations import BATCH, samples_in
from onnx_ocs.calibration import Samples
from onnx_ocs.collect import calibrate
from onnx_ocs.cost import cost
from onnx_ocs.errors import UserError
from onnx_ocs.graph import Array, Graph
from onnx_ocs.manager import Context
from onnx_ocs.planner import COARSE, COARSER, Budget, Choice, Planner, early_or_late
from onnx_ocs.plans import Plan
from onnx_ocs.quality import Quality
from onnx_ocs.region import Region, find_regions
from onnx_ocs.runtime import Session
from onnx_ocs.shapes import infer_shapes
from onnx_ocs.stats import Statistics, fingerprint
from onnx_ocs.switchboard import Setting, Switchboard, narrow
from onnx_ocs.target import Probe, Target, search
from onnx_ocs.widen import widen

__all__ = ["PlanOptions", "make_plan"]

Objective = Literal["auto", "sqnr", "kl"]
SCREENED = 2  # samples on which tensors whose step alone could be changed are looked at
HARMLESS = 5e-3  # share of all tensors' damage below which a step alone is not worth looking at
HELD_OUT = 256  # most samples on which plans are compared
HELD_BYTES = 1 << 28
# Shares of work that do not depend on the machine, so that a plan does not either
WEIGHING_MACS = 4e10  # for all tensors together
JUDGING_MACS = 1e12  # for all comparisons of plans together
EXPONENTS = (0.2, 0.35, 0.6, 1.0)  # how far the measured damage counts (Planner.weigh)
FEW = 2  # copies a channel, as an alternative to as many as allowed
LEARNT = 0  # the half of the samples that plans are made from; they are judged on the other
EVERYTHING, SOME = slice(None), slice(0, None, 3)  # of the feeds that plans are judged on
WORTH = 1e-2  # relative improvement of the objective below which a plan is not worth its cost
WORTH_DB = 0.05  # the same for the output's SQNR
AS_IT_IS = "the model as it is"
NOTICEABLE = 1e-3  # relative improvement of the objective that is more than noise


@dataclass(frozen=True)
class PlanOptions:
    """What the planner is asked for.

    Attributes:
        budget: share of extra MACs; None if `ratio` is given, or if only a target limits the cost.
        ratio: mean copies a channel; None if `budget` is given.
        target: the quality to reach at the least cost; `budget` or `ratio` is then the most that may be spent, and
            the unit that is counted in.
        copies: most copies a channel.
        align: what the number of a tensor's channels, copies included, is to be a multiple of.
        rescale: whether steps may be re-chosen.
        mode: where the copies are made.
        objective: what the final choice minimises: "sqnr" (squared error), "kl" (divergence of the class scores), or
            "auto": for class scores the geometric mean of both, else squared error.  The two rank plans differently,
            and one that wins by either alone tends to lose by the other.
        include: only tensors that match one of these globs.
        exclude: no tensor that matches one of these.
        stats: file that keeps the statistics.
        jobs: processes that calibrate; the plan does not depend on it.  They are spawned, so a script that asks for
            more than one must keep its own work under `if __name__ == "__main__":`.
    """

    budget: float | None = 0.1
    ratio: float | None = None
    target: Target | None = None
    copies: int = 15
    align: int = 1
    rescale: bool = True
    mode: Literal["auto", "early", "late"] = "auto"
    objective: Objective = "auto"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    stats: Path | None = None
    jobs: int = 1

    def allows(self, tensor: str) -> bool:
        """Whether the user lets a tensor be changed."""
        wanted = not self.include or any(fnmatch(tensor, g) for g in self.include)
        return wanted and not any(fnmatch(tensor, g) for g in self.exclude)


def _held(
    samples: Samples, limit: int | None, divisible: bool = True
) -> tuple[list[Mapping[str, Array]], list[Mapping[str, Array]]]:
    """A few feeds to weigh tensors with, and others that plans are judged on (the same when there is but one)."""
    total = samples.count() if limit is None else min(limit, samples.count())
    feeds: list[Mapping[str, Array]] = []
    size = 0
    wanted = min(total, 2 * HELD_OUT)
    for feed in samples.batches(BATCH, wanted):
        size += sum(v.nbytes for v in feed.values())
        if feeds and size > HELD_BYTES:
            break
        feeds.append(feed)
    if len(feeds) == 1:
        only = feeds[0]
        n = len(next(iter(only.values())))
        if divisible and n > 1 and all(len(v) == n for v in only.values()):
            half = n // 2
            try_split = [{k: v[:half] for k, v in only.items()}, {k: v[half:] for k, v in only.items()}]
            return [try_split[0]], [try_split[1]]
        return feeds, feeds
    return feeds[0::2], feeds[1::2]  # as `Statistics` counts them


class _Judge:
    """The objective of a plan on held-out samples."""

    def __init__(
        self,
        board: Switchboard,
        feeds: Sequence[Mapping[str, Array]],
        float_model: Session | None,
        objective: Objective,
    ) -> None:
        self.board, self.feeds = board, feeds
        self.references: list[Array] = []
        for f in feeds:
            try:
                out = board.run(f, {}) if float_model is None else next(iter(float_model.run(f).values()))
            except Exception as e:  # onnxruntime raises many kinds
                who = "model" if float_model is None else "float model"
                raise UserError(
                    f"onnxruntime does not run the {who} on these samples: {str(e).splitlines()[0]}"
                ) from None
            self.references.append(np.asarray(out, np.float64))
        first = self.references[0]
        if float_model is not None and first.shape != board.run(feeds[0], {}).shape:
            raise UserError(
                f"the float model's output has another shape, {first.shape}: give the model's own float model"
            )
        scores = first.ndim == 2 and first.shape[1] > 1
        self.objective = objective if objective != "auto" else "kl and sqnr" if scores else "sqnr"
        if self.objective == "kl" and not scores:
            raise UserError(
                "the objective 'kl' needs an output of class scores, (samples, classes): use --objective sqnr"
            )

    def __call__(self, settings: Mapping[int, Setting], part: slice = EVERYTHING) -> tuple[float, float]:
        """The objective (smaller is better) and the SQNR in dB, on all feeds or a part of them."""
        noise = signal = divergence = 0.0
        count = 0
        for f, ref in zip(self.feeds[part], self.references[part], strict=True):
            out = np.asarray(self.board.run(f, settings), np.float64)
            noise += float(((out - ref) ** 2).sum())
            signal += float((ref**2).sum())
            if self.objective != "sqnr":
                p, q = _log_softmax(ref), _log_softmax(out)
                divergence += float((np.exp(p) * (p - q)).sum())
                count += len(ref)
        sqnr = 10 * np.log10(signal / noise) if noise > 0 and signal > 0 else np.inf
        error, kl = noise / max(signal, 1e-30), max(divergence, 0.0) / max(count, 1)
        value = {"sqnr": error, "kl": kl}.get(self.objective, float(np.sqrt(error * kl)))
        return value, float(sqnr)

    def halves(self, settings: Mapping[int, Setting]) -> Iterator[float]:
        """The objective on both halves of the feeds (on all, where there is but one), computed when it is asked for."""
        # the smaller one first: most trials end there
        parts = (slice(1, None, 2), slice(0, None, 2)) if len(self.feeds) > 1 else (EVERYTHING,)
        return (self(settings, part)[0] for part in parts)


def _better(new: Iterable[float], old: Iterable[float]) -> tuple[float, ...] | None:
    """A plan's halves where it is better than another on both (one alone may be luck); None where it is not."""
    found = []
    for n, o in zip(new, old, strict=True):
        if not n < o * (1 - NOTICEABLE):
            return None
        found.append(n)
    return tuple(found)


def _worth(before: tuple[float, float], after: tuple[float, float], objective: str) -> bool:
    """Whether a plan's objective and SQNR are worth its cost.

    Where two models hardly disagree, half of next to no divergence is no reason to give up SQNR.
    """
    return after[0] <= before[0] * (1 - WORTH) and (objective == "kl" or after[1] >= before[1] + WORTH_DB)


def _log_softmax(x: Array) -> Array:
    if np.all(x >= 0) and np.allclose(x.sum(1), 1, atol=1e-2):  # the model ends in a Softmax already
        return np.asarray(np.log(np.maximum(x, 1e-9)))
    shifted = x - x.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def _harmful(
    board: Switchboard,
    regions: Sequence[Region],
    feed: Mapping[str, Array],
    progress: Callable[[str, int, int | None], None],
) -> list[int]:
    """The tensors that no layer with a weight reads, and whose quantizers cost the output something each.

    Such tensors are many in some models, and a finer step helps few of them: a look at few samples tells which.
    """
    narrows = {k: narrow(r.quantizer) for k, r in enumerate(regions) if r.quantizer is not None and r.adjustable}
    steps = [k for k in narrows if (walk := regions[k].walk) is not None and not walk.weights]
    if not steps:
        return []
    damages = _damages(board, [{k: s} for k, s in narrows.items()], [feed], "screening tensors", progress)
    damage = dict(zip(narrows, damages, strict=True))
    return [k for k in steps if damage[k] > HARMLESS * sum(damages)]


def _weigh(
    planner: Planner,
    board: Switchboard,
    feeds: Sequence[Mapping[str, Array]],
    progress: Callable[[str, int, int | None], None],
) -> None:
    """Measure what each tensor's quantizer alone does to the output."""
    wanted = max(2, min(16, int(WEIGHING_MACS / max(planner.total * len(planner.candidates), 1))))
    alone = [{c.index: narrow(q)} for c in planner.candidates if (q := c.region.quantizer) is not None]
    damages = _damages(board, alone, _first(feeds, wanted), "weighing tensors", progress)
    for c, damage in zip(planner.candidates, damages, strict=True):
        c.damage = damage


def _damages(
    board: Switchboard,
    trials: Sequence[Mapping[int, Setting]],
    feeds: Sequence[Mapping[str, Array]],
    what: str,
    progress: Callable[[str, int, int | None], None],
) -> list[float]:
    """Squared error at the output of each trial."""
    references = [board.run(f, {}).astype(np.float64) for f in feeds]
    found = []
    for n, trial in enumerate(trials):
        progress(what, n, len(trials))
        outputs = (board.run(f, trial) for f in feeds)
        found.append(sum(float(((out - ref) ** 2).sum()) for out, ref in zip(outputs, references, strict=True)))
    progress(what, len(trials), len(trials))
    return found


def _finite(value: float) -> float | None:
    """A number that JSON has a word for."""
    return value if np.isfinite(value) else None


def _first(feeds: Sequence[Mapping[str, Array]], samples: int) -> list[Mapping[str, Array]]:
    """The first feeds, up to a number of samples (whole feeds, at least one)."""
    chosen: list[Mapping[str, Array]] = []
    count = 0
    for f in feeds:
        if chosen and count >= samples:
            break
        chosen.append(f)
        count += samples_in(f)
    return chosen


def _weigh_in_place(
    planner: Planner, judge: _Judge, choices: Mapping[int, Choice], progress: Callable[[str, int, int | None], None]
) -> None:
    """Weights at the plan: what the objective gains when one quantizer is switched off while all others are on.

    Quantization errors of a low-bit network do not add up: a tensor's error counts for less behind another that has
    already done the damage.  The weight is the geometric mean with the old one, so that one noisy measurement does
    not turn the plan around.
    """
    settings = planner.settings(choices)
    now, _ = judge(settings, SOME)
    gains, predicted = [], []
    for n, c in enumerate(planner.candidates):
        progress("weighing in place", n, len(planner.candidates))
        off = {k: s for k, s in settings.items() if k != c.index}
        gains.append(max(now - judge(off, SOME)[0], 0.0))
        predicted.append(planner.at(c, choices.get(c.index)))
    progress("weighing in place", len(planner.candidates), len(planner.candidates))
    floor = 0.02 * max(gains, default=0.0)
    fresh = [max(g, floor) / p if p > 0 else 0.0 for g, p in zip(gains, predicted, strict=True)]
    old = np.asarray([c.weight for c in planner.candidates])
    new = np.asarray(fresh)
    both = (old > 0) & (new > 0)
    if both.any():
        new = new * np.exp(np.mean(np.log(old[both])) - np.mean(np.log(new[both])))
    for c, o, w in zip(planner.candidates, old, new, strict=True):
        c.weight = float(np.sqrt(o * w)) if o > 0 and w > 0 else float(o)


def _roll_back(
    planner: Planner, judge: _Judge, choices: dict[int, Choice], progress: Callable[[str, int, int | None], None]
) -> tuple[dict[int, Choice], list[int]]:
    """Leave out, one by one, the regions without which the held-out objective is better."""
    kept, dropped = dict(choices), []
    now = tuple(judge.halves(planner.settings(kept)))
    for n, k in enumerate(list(choices)):
        progress("checking regions", n, len(choices))
        trial = {i: c for i, c in kept.items() if i != k}
        then = _better(judge.halves(planner.settings(trial)), now)
        if then is not None:
            kept, now = trial, then
            dropped.append(k)
    progress("checking regions", len(choices), len(choices))
    return kept, dropped


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
    learn, held = _held(context.samples, context.limit, divisible)
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
        steps = _harmful(board, regions, few, context.progress) if options.rescale else []
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
    _weigh(planner, board, learn, context.progress)
    judgements = 16 + 2 * len(planner.candidates)
    wanted = max(8, int(JUDGING_MACS / max(planner.total * judgements, 1)))
    judge = _Judge(
        board,
        _first(held, wanted),
        None if float_model is None else Session(float_model, "enable_all", fusion=False),
        options.objective,
    )

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
        made = _best(planner, judge, budget, options, context.progress, found["candidates"])
        made, dropped = _improve(planner, judge, budget, options, made, context.progress, found["candidates"])
        unseen = judge(planner.settings(made.choices))  # by samples that this plan was not made from
        again = _with_all(planner, made, dropped, budget, options.rescale)
        # that plan has seen the samples it is judged on: if it is no better even so, the other one is kept
        more = judge(planner.settings(again))[0] < unseen[0]
        name, choices = made.name, again if more else made.choices
        if options.budget is not None:
            choices = _affordable(price, planner, choices, dropped, options.budget, options.rescale)
        after = judge(planner.settings(choices))
    else:
        assert measure is not None
        judged = measure

        def quality(choices: Mapping[int, Choice]) -> Quality:
            return judged(Plan(model_hash, planner.planned(choices)))

        name, choices, dropped = _reach(planner, judge, options, context, price, quality, found)
        unseen = after = judge(planner.settings(choices))
    if options.target is None and not (
        _worth(before, after, judge.objective) and _worth(before, unseen, judge.objective)
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


@dataclass(frozen=True)
class _Made:
    """A plan's choices, what they are called, and how to make them again within another budget."""

    name: str
    choices: dict[int, Choice]
    how: Callable[[Budget], dict[int, Choice]]


def _best(
    planner: Planner,
    judge: _Judge,
    budget: Budget,
    options: PlanOptions,
    progress: Callable[[str, int, int | None], None],
    log_to: dict[str, Any],
) -> _Made:
    """The best of the paper's selection, the same step, and re-chosen steps, measured; leaves the planner set to it."""
    best: tuple[float, _Made, int, float, float] | None = None
    many, few = options.copies, min(FEW, options.copies)
    # most copies, exponent, whether steps are re-chosen, share of the budget that is spent, the coarsest step
    trials: list[tuple[int, float, bool, float, float]] = [(many, e, False, 1.0, COARSER) for e in (1.0, 0.35)]
    if options.rescale:
        trials += [(most, e, True, 1.0, COARSER) for most in sorted({few, many}) for e in EXPONENTS]
        trials += [(many, 1.0, True, 0.5, COARSER), (many, 1.0, True, 0.0, COARSER)]
        trials += [(many, 1.0, True, 1.0, COARSE[0]), (many, 1.0, True, 0.0, COARSE[0])]
    for n, (most, exponent, rescale, share, coarsest) in enumerate([(0, 1.0, False, 1.0, COARSER), *trials]):
        progress("comparing plans", n, len(trials) + 1)
        planner.coarsest = coarsest
        if most == 0:
            name, how = "mass, same step", planner.by_mass
        else:
            if most != planner.most:
                planner.prepare(most)
            planner.weigh(exponent)
            step = "step re-chosen" if rescale else "same step"
            name = f"error^{exponent:g}, up to {most} copies, {step}"
            name += "" if share == 1 else f", {share:.0%} of the budget"
            name += "" if coarsest == COARSER else f", up to {coarsest:g} times coarser"
            how = partial(planner.allocate, rescale=rescale)
        made = _Made(name, how(budget.times(share)), how)
        value, sqnr = judge(planner.settings(made.choices))
        log_to[name] = {"objective": value, "sqnr_db": sqnr, **planner.describe(made.choices)}
        if best is None or value < best[0]:
            best = value, made, most or options.copies, exponent, coarsest
    progress("comparing plans", len(trials) + 1, len(trials) + 1)
    assert best is not None
    planner.prepare(best[2])
    planner.weigh(best[3])
    planner.coarsest = best[4]
    return best[1]


def _improve(
    planner: Planner,
    judge: _Judge,
    budget: Budget,
    options: PlanOptions,
    made: _Made,
    progress: Callable[[str, int, int | None], None],
    log_to: dict[str, Any],
) -> tuple[_Made, list[int]]:
    """Make the best plan better: weigh its tensors in place, and leave out what does not help."""
    _weigh_in_place(planner, judge, made.choices, progress)
    how = partial(planner.allocate, rescale=options.rescale)
    again = _Made("weighed in place", how(budget), how)
    value, sqnr = judge(planner.settings(again.choices))
    log_to[again.name] = {"objective": value, "sqnr_db": sqnr, **planner.describe(again.choices)}
    if _better(judge.halves(planner.settings(again.choices)), judge.halves(planner.settings(made.choices))):
        made = again
    kept, dropped = _roll_back(planner, judge, made.choices, progress)
    if dropped:  # what was given back may be spent elsewhere
        spent = _without(planner, dropped, lambda: how(budget))
        if _better(judge.halves(planner.settings(spent)), judge.halves(planner.settings(kept))):
            return _Made(made.name, spent, how), dropped
    return _Made(made.name, kept, made.how), dropped


def _affordable(
    price: Callable[[Mapping[int, Choice]], float],
    planner: Planner,
    choices: dict[int, Choice],
    dropped: Sequence[int],
    most: float,
    rescale: bool,
) -> dict[int, Choice]:
    """Copies that travel on through a depthwise layer, or meet in a Concat, cost more than each region's readers tell.

    So the plan's cost is taken from a widened model, and the budget lowered until it is met.
    """
    allowed = most
    for _ in range(4):
        real = price(choices)
        if real <= most + 1e-6 or not choices:
            return choices
        allowed *= most / real * 0.97
        lower = Budget(allowed, None)
        choices = _without(planner, dropped, lambda lower=lower: planner.allocate(lower, rescale))  # type: ignore[misc]
    return choices if price(choices) <= most + 1e-6 else {}


def _with_all(
    planner: Planner, made: _Made, dropped: Sequence[int], budget: Budget, rescale: bool
) -> dict[int, Choice]:
    """The plan that half of the samples led to, made again from all of them: the same way, for the same regions."""
    (macs, ratio), most = planner.spend(made.choices), planner.most
    planner.tabulate(rescale)
    planner.prepare(most)
    spent = Budget(macs, None) if budget.ratio is None else Budget(None, ratio)
    return _without(planner, dropped, lambda: made.how(spent))


def _without(planner: Planner, dropped: Sequence[int], make: Callable[[], dict[int, Choice]]) -> dict[int, Choice]:
    """A plan that leaves some regions as they are."""
    everything = planner.candidates
    planner.candidates = [c for c in everything if c.index not in dropped]
    choices = make()
    planner.candidates = everything
    return choices


def _reach(
    planner: Planner,
    judge: _Judge,
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
            choices = _affordable(price, planner, choices, dropped, allowed, options.rescale)
        macs, ratio = price(choices), planner.spend(choices)[1]
        value = target.value(quality(choices))
        log.append({"allowed": allowed, "plan": name, "extra_macs": macs, "mean_copies": ratio, "got": value})
        probes.append(Probe(allowed, macs if in_macs else ratio, value, (name, choices, dropped)))
        return probes[-1]

    def quick(amount: float) -> Probe:
        made = _best(planner, judge, budget(amount), options, context.progress, {})
        return probe(amount, made.name, made.choices)

    def thorough(amount: float) -> Probe:
        log_to = found["candidates"]
        made = _best(planner, judge, budget(amount), options, context.progress, log_to)
        made, dropped = _improve(planner, judge, budget(amount), options, made, context.progress, log_to)
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
    new = onnx.ModelProto()
    new.CopyFrom(model)
    graph, shapes = Graph(new), infer_shapes(new)
    regions = find_regions(graph, shapes)
    decisions = []
    for p in planner.planned(choices):
        k = next(i for i, r in enumerate(regions) if r.tensor == p.tensor and r.outputs == p.quantizers)
        if p.copies.any() or p.copies_low.any():
            decisions.append(early_or_late(graph, regions[k], p))
    widen(graph, shapes, decisions)
    graph.commit()
    return cost(new, one, kernels=False).macs / max(planner.total, 1) - 1


def _point(planner: Planner, judge: _Judge, budget: Budget, options: PlanOptions) -> dict[str, Any]:
    """One point of the sweep."""
    made = _best(planner, judge, budget, options, lambda *_: None, {})
    name, choices = made.name, made.choices
    value, sqnr = judge(planner.settings(choices))
    return {"budget": budget.macs, "chosen": name, "objective": value, "sqnr_db": sqnr, **planner.describe(choices)}
