"""`--passes auto`: which passes run is found by trying, on samples that no fit has seen.

    free       new grids, steps, fitted weights, one after the other; then without the steps
    costed     copies within a growing share of what may be spent, then branches on top of the best

Every candidate is made from three quarters of the samples and judged on the others: no output may lose against the
best so far, on a half of them by no more than chance, and what costs must take a tenth of the squared error.  A kind
of move is given up where more of it does not pay.  The passes that were best are run again on all samples; where even
that is worse on the samples that were set apart, the candidate itself is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnx_ocs.calibration.apart import FEWEST, set_apart
from onnx_ocs.errors import UserError
from onnx_ocs.measurement.gain import LEAST_DB
from onnx_ocs.measurement.quality import Quality
from onnx_ocs.passes import DEFAULT, Compensate, Reconstruct, Regrid, Translate
from onnx_ocs.passes.registry import Auto
from onnx_ocs.passmanager import Pass
from onnx_ocs.planning.options import LATENCY, PlanOptions
from onnx_ocs.report.trials import TrialEntry, TrialsEntry, front
from onnx_ocs.targets.registry import rules_of
from onnx_ocs.targets.timing import timing_of
from onnx_ocs.verbs.outcome import Outcome, Prepared, not_applied
from onnx_ocs.verbs.trials import Bench, Run, Trial, gain, not_better

__all__ = ["PAYS_DB", "Chosen", "automatic"]

PAYS_DB = 0.5  # what a move that costs must gain: a tenth of the squared error
SHARES = (0.5, 1.0)  # of what may be spent, one after the other
TOWARDS = (0.0625, 0.25, 1.0)  # the same on the way to a target
FREE = (Regrid, Translate, Reconstruct)
NOTHING = "nothing that was tried is better on samples that no fit has seen, so nothing was applied"


@dataclass(frozen=True)
class Chosen:
    """What runs, and what came of it.

    Attributes:
        passes: the passes.
        options: what steps and copies are planned by.
        outcome: the passes' outcome, from all samples.
        asked: what might be spent, and a target; None where nothing is planned.
        trials: the report's entry of what was tried; None where nothing was.
    """

    passes: Sequence[Pass]
    options: PlanOptions | None
    outcome: Outcome
    asked: PlanOptions | None = None
    trials: TrialsEntry | None = None


def automatic(ready: Prepared, auto: Auto, options: PlanOptions | None, run: Run) -> Chosen:
    """Find the passes that pay, and run them.

    Args:
        ready: what the rewrite starts from.
        auto: the passes that may run.
        options: what may be spent, and a target; default: a tenth of the time.
        run: runs passes on the model, or on top of an outcome.

    Raises:
        UserError: there are no calibration samples, or the model does not run on them.
    """
    context = ready.context
    if context.samples is None:
        raise UserError("'auto' needs calibration samples (--calib): what it tries is judged on them")
    options = PlanOptions(budget=None, max_latency=LATENCY) if options is None else options
    apart = set_apart(context.samples, context.limit)
    if apart is None:
        return _few(ready, auto, options, run)
    bench = Bench(ready, apart, run, options.max_latency, timing_of(options.runtime))
    search = _Search(bench, auto.moves, options)
    stopped = search.run()
    best = search.best
    entry: TrialsEntry = {
        "fitted": apart[0].count(), "unseen": apart[1].count(), "limit": options.max_latency, "stopped": stopped,
        "tried": search.entries(),
    }  # fmt: skip
    if not best.labels:
        return Chosen([], options, not_applied(ready, search.free.outcome, NOTHING, "loses"), options, entry)
    outcome = run(ready, best.passes, best.options, None)
    if _refit_is_worse(bench, best, outcome):
        why = f"what was fitted on {entry['fitted']} samples is written: fitted on all it is worse on the others"
        outcome = best.outcome.noting(why)
    return Chosen(best.passes, best.options, outcome, options, entry)


def _few(ready: Prepared, auto: Auto, options: PlanOptions, run: Run) -> Chosen:
    """The default passes, where the samples are too few to set some apart."""
    passes = [m for m in auto.moves if isinstance(m, DEFAULT)]
    free = options if options.target is not None else _within(options, 0.0)
    note = f"'auto' tried nothing: of fewer than {FEWEST} samples none can be set apart; the default passes ran"
    return Chosen(passes, free, run(ready, passes, free, None).noting(note), options)


def _refit_is_worse(bench: Bench, best: Trial, outcome: Outcome) -> bool:
    """Whether passes that have seen all samples do worse than those that have not, or take too long."""
    if not_better(best.seen, bench.judged(outcome.model), -LEAST_DB) is not None:
        return True
    if bench.limit is None or best.macs <= 1:
        return False
    took = bench.timed(outcome.model)
    return took is not None and took.exceeds(bench.limit)


def _within(options: PlanOptions, share: float) -> PlanOptions:
    """What a share of all that may be spent allows; a target is reached by the search itself."""
    planned = replace(options, target=None, stats=None)
    if not share:
        return replace(planned, budget=0.0, ratio=None)
    return replace(
        planned,
        budget=None if options.budget is None else share * options.budget,
        ratio=None if options.ratio is None else share * options.ratio,
        max_latency=None if options.max_latency is None else 1 + share * (options.max_latency - 1),
    )


class _Search:
    """The candidates so far, and the best of them."""

    def __init__(self, bench: Bench, moves: Sequence[Pass], options: PlanOptions) -> None:
        self._bench, self._options = bench, options
        floats = rules_of(options.runtime).floats
        self._free = [m for m in moves if isinstance(m, FREE)]
        self._others = [m for m in moves if not isinstance(m, FREE) and floats]
        self.best = self.free = bench.start  # the best so far, and all that is free together
        self.tried: list[tuple[Trial, str | None]] = [(bench.start, None)]  # with the reason why it was left

    def run(self) -> str:
        """Try what is free, then what costs; why no more is tried."""
        unstepped = self._free_moves()
        if self._reached():
            return "the target is reached"
        if self._options.budget == 0:
            return "nothing may be spent"
        shares = SHARES if self._options.target is None else TOWARDS
        stopped = [self._copies(shares, unstepped), *(self._added(m, shares) for m in self._others)]
        if self._reached():
            return "the target is reached"
        return "; ".join(s for s in stopped if s) or "all that may be spent was tried"

    @property
    def _least(self) -> float:
        """What a move that costs must gain; on the way to a target anything counts."""
        return PAYS_DB if self._options.target is None else LEAST_DB

    def _reached(self) -> bool:
        target = self._options.target
        return target is not None and target.value(self.best.seen.whole) >= target.wanted

    def _free_moves(self) -> Trial:
        """Each on top of those before, then those behind the steps without them; what the steps were taken on."""
        planned = _within(self._options, 0.0)
        trial = unstepped = self._bench.start
        stepped = False
        for move in self._free:
            before, trial = trial, self._next(trial, _called(move), [move], planned)
            if isinstance(move, Translate):
                unstepped, stepped = before, trial.labels != before.labels
            elif stepped:
                self._next(unstepped, _called(move), [move], planned)
        self.free = trial
        return unstepped

    def _next(self, base: Trial, label: str, moves: Sequence[Pass], options: PlanOptions) -> Trial:
        """A candidate with further passes that cost nothing, weighed."""
        outcome = self._bench.outcome(moves, options, base)
        passes = (*base.passes, *moves)
        if outcome.model is base.outcome.model:
            trial = replace(base, passes=passes, options=options, outcome=outcome)
            self.tried.append((replace(trial, labels=(*base.labels, label)), "changes nothing"))
            self.best = trial if self.best is base else self.best  # the pass may find something on all samples
            return trial
        trial = self._bench.trial((*base.labels, label), passes, options, outcome)
        self._weigh(trial, LEAST_DB)
        return trial

    def _weigh(self, trial: Trial, least: float) -> bool:
        """Whether a candidate takes the place of the best."""
        limit, took = self._bench.limit, trial.latency
        costs = trial.macs > self.best.macs
        why = not_better(self.best.seen, trial.seen, least)
        if limit is not None and took is not None and (took.exceeds(limit) or (costs and not took.holds(limit))):
            why = f"takes x {took.ratio:.2f} of the time (to {took.tolerance:.2f}), where x {limit:g} is allowed"
        if why is None:
            self.best = trial
        self.tried.append((trial, why))
        return why is None

    def _copies(self, shares: Sequence[float], base: Trial) -> str | None:
        """Copies within growing shares of what may be spent, each with what is fitted behind them."""
        at = next((k for k, m in enumerate(self._free) if isinstance(m, Translate)), None)
        if at is None:
            return None
        first, then = self._free[at], self._free[at + 1 :]
        for share in shares:
            options = _within(self._options, share)
            labels = (*base.labels, f"copies{_told(options)}")
            outcome = self._bench.outcome([first], options, base)
            if not any(e["status"] == "applied" and any((*e["copies"], *e["copies_low"])) for e in outcome.regions):
                why = "no copies are worth what they cost"
                self.tried.append((replace(base, labels=labels), why))
                continue
            half = replace(base, outcome=outcome)
            outcome = self._bench.outcome(then, options, half) if then else outcome
            labels += tuple(map(_called, then))
            trial = self._bench.trial(labels, (*base.passes, first, *then), options, outcome)
            if not self._weigh(trial, self._least):
                return "more copies would not pay" if self._took("copies") else "copies do not pay"
            if self._reached():
                return None
        return None

    def _added(self, move: Pass, shares: Sequence[float]) -> str | None:
        """A pass that costs on top of the best, within growing shares of what it may spend."""
        if self._reached():
            return None
        base, word = self.best, _called(move)
        for share in shares if isinstance(move, Compensate) else shares[-1:]:
            less = self._spare(move, share, base)
            label = word + (f" ({100 * less.budget:.3g} % MACs)" if isinstance(less, Compensate) else "")
            labels, passes = (*base.labels, label), (*base.passes, less)
            options = base.options or _within(self._options, 0.0)
            outcome = self._bench.outcome([less], options, base)
            if outcome.model is base.outcome.model:
                self.tried.append((replace(base, labels=labels, passes=passes), "changes nothing"))
                continue
            trial = self._bench.trial(labels, passes, base.options, outcome)
            if not self._weigh(trial, self._least):
                return f"more {word} would not pay" if self._took(word) else f"{word} do not pay"
            if self._reached():
                return None
        return None

    def _spare(self, move: Pass, share: float, base: Trial) -> Pass:
        """A pass with a share of its budget, within what is left of that of all."""
        if not isinstance(move, Compensate):
            return move
        most = move.budget if self._options.budget is None else min(move.budget, self._options.budget + 1 - base.macs)
        return replace(move, budget=max(share * most, 0.0))

    def _took(self, word: str) -> bool:
        return any(label.startswith(word) for label in self.best.labels)

    def entries(self) -> list[TrialEntry]:
        """The report's entries."""
        start = self._bench.start.seen.whole
        points = [(_time(t), _worth(start, t.seen.whole)) for t, _ in self.tried]
        return [
            _entry(t, why, t.labels == self.best.labels, start, on_front)
            for (t, why), on_front in zip(self.tried, front(points), strict=True)
        ]


def _called(move: Pass) -> str:
    """A free move, or a pass on top, in a word."""
    return {Translate.name: "steps", Compensate.name: "branches"}.get(move.name, move.name)


def _told(options: PlanOptions) -> str:
    """What may be spent, in words."""
    limits = (
        (options.max_latency, f"time x {options.max_latency}"),
        (options.budget, f"{100 * (options.budget or 0):.3g} % MACs"),
        (options.ratio, f"ratio {options.ratio}"),
    )
    return f" ({', '.join(told for value, told in limits if value is not None)})"


def _time(trial: Trial) -> float:
    return trial.macs if trial.latency is None else trial.latency.ratio


def _worth(start: Quality, seen: Quality) -> float:
    return gain(start, seen) if seen.metric is None else seen.metric


def _entry(trial: Trial, why: str | None, best: bool, start: Quality, on_front: bool) -> TrialEntry:
    seen, took = trial.seen.whole, trial.latency
    entry: TrialEntry = {
        "name": trial.name,
        "passes": [p.name for p in trial.passes],
        "sqnr_db": seen.sqnr_db,
        "agreement": seen.agreement,
        "gain_db": gain(start, seen),
        "macs": trial.macs,
        "latency": 1.0 if not trial.labels else None if took is None else took.ratio,
        "tolerance": None if took is None else took.tolerance,
        "front": on_front,
        "status": "left" if why else "chosen" if best else "kept",
        "why": why or "",
    }
    if seen.metric is not None:
        entry["metric"] = seen.metric
    return entry
