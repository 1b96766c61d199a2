"""From a problem and its judges to one plan: within a budget, without needless loss of kernels, or to a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx

from onnx_ocs.calibration.context import Context
from onnx_ocs.measurement.cost import cost
from onnx_ocs.measurement.latency import SECONDS, Compared, compared, decided
from onnx_ocs.measurement.quality import Quality
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array
from onnx_ocs.planning.allocate import Recipe, solve
from onnx_ocs.planning.choices import Budget, Choices, makes_copies
from onnx_ocs.planning.folding import folded
from onnx_ocs.planning.goal import Probe, Target, search
from onnx_ocs.planning.objective import Judge, better, worth
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.plan import Plan, early_or_late
from onnx_ocs.planning.problem import LEARNT, Problem
from onnx_ocs.planning.search import Trial, best_plan, freed, improve
from onnx_ocs.planning.timely import CHEAPER, Look, Timely
from onnx_ocs.regions.region import Key, Region
from onnx_ocs.runtime.memory import give_back
from onnx_ocs.targets.ort import operators
from onnx_ocs.targets.timing import timing_of
from onnx_ocs.translation.decision import Decision
from onnx_ocs.translation.together import agreed
from onnx_ocs.translation.widen import widened

__all__ = ["Judged", "Spending"]

HALVED = 10 * float(np.log10(2))  # dB to be gained if every operator leaves the integers; for some, their share
LOWERINGS = 4


@dataclass(frozen=True)
class Judged:
    """A plan and what it is worth.

    Attributes:
        trial: the plan.
        unseen: objective and SQNR of the plan from one half of the samples, on the other half.
        after: objective and SQNR of the plan that is applied, which all samples led to.
    """

    trial: Trial
    unseen: tuple[float, float]
    after: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Spending:
    """What a search for a plan needs.

    Attributes:
        model: the model that is planned for.
        hash: its fingerprint.
        problem: candidates with measured damage, without tables.
        judge: the objective on samples that no plan is made from.
        check: makes the objective on the samples that plans are made from.
        options: what is asked for.
        context: progress.
        one: shapes of the model's inputs for one sample.
        sample: one sample, that models are timed on.
        before: objective and SQNR of the model as it is.
        rescaled: whether only plans that re-choose steps are tried.
    """

    model: onnx.ModelProto
    hash: str
    problem: Problem
    judge: Judge
    check: Callable[[], Judge]
    options: PlanOptions
    context: Context
    one: Mapping[str, Sequence[int]]
    sample: Mapping[str, Array]
    before: tuple[float, float]
    rescaled: bool = False

    @property
    def untouched(self) -> Trial:
        """The model as it is."""
        return Trial("the model as it is", Recipe(0), {})

    def price(self, choices: Choices) -> float:
        """Share of extra MACs of a plan, measured on the widened model."""
        return self.share(self.carried_out(choices))

    def share(self, new: onnx.ModelProto) -> float:
        """Share of extra MACs of a widened model."""
        return cost(new, self.one, kernels=False).macs / max(self.problem.total, 1) - 1

    def objective(self, choices: Choices) -> tuple[float, float]:
        """A plan's objective and SQNR on samples that no plan is made from."""
        return self.judge(self.problem.settings(choices))

    def surely(self, choices: Choices, before: Choices | None = None) -> bool:
        """Whether a plan is better than another on both halves of these samples: a few that gain a lot are luck."""
        now, then = (self.judge.halves(self.problem.settings(c)) for c in (choices, before or {}))
        return better(now, then) is not None

    def carried_out(self, choices: Choices) -> onnx.ModelProto:
        """The model with a plan's copies, to look at what they cost."""
        copied = [p for p in self.problem.planned(choices) if p.copies.any() or p.copies_low.any()]

        def decide(graph: Graph, of: Mapping[Key, Region]) -> list[Decision]:
            found = [early_or_late(graph, of[p.key], p) for p in copied]
            return [d for d in agreed(graph, found) if isinstance(d, Decision)]

        return widened(self.model, decide)

    def allowed(self, choices: Choices) -> bool:
        """Whether what choices really cost is within the limits, measured."""
        options = self.options
        if options.budget is not None and self.price(choices) > options.budget + 1e-6:
            return False
        return self._in_time(choices)

    def _in_time(self, choices: Choices) -> bool:
        """Whether a plan keeps to the limit of time, at one look."""
        new = None if self.options.max_latency is None else self.carried_out(choices)
        took = None if new is None else self.timed(new)
        return took is None or new is None or took.holds(self.limit(new))

    def limit(self, new: onnx.ModelProto) -> float:
        """The most time of a widened model, as a ratio to the input's."""
        most, pace = self.options.max_latency, self.options.pace
        paced = np.inf if pace is None else pace * (1 + self.share(new))
        return min(np.inf if most is None else most, paced)

    def timed(self, new: onnx.ModelProto, seconds: float = SECONDS) -> Compared | None:
        """A model's time beside the input's, in the target's runtime."""
        return compared(self.model, new, self.sample, seconds, timing_of(self.options.runtime))

    def _best(self, problem: Problem, budget: Budget, log_to: dict[str, Any], thorough: bool) -> Trial:
        """The best plan of one half of the samples."""
        progress = self.context.progress
        trial = best_plan(problem, self.judge, budget, self.options, progress, log_to, self.rescaled)
        if not thorough:
            return trial
        return improve(problem, self.judge, self.check(), budget, self.options, trial, progress, log_to)

    def _affordable(self, problem: Problem, trial: Trial, most: float) -> Trial:
        """A plan within a share of extra MACs, measured.

        Copies that travel on through a grouped layer, or meet in a Concat, cost more than each region's readers
        tell.  So the plan's cost is taken from a widened model, and the budget lowered until it is met.
        """
        allowed, rest = most, problem.without(trial.dropped)
        for _ in range(LOWERINGS):
            real = self.price(trial.choices)
            if real <= most + 1e-6 or not trial.choices:
                return trial
            allowed *= most / real * CHEAPER
            choices = solve(rest, freed(trial.recipe, self.options), Budget(allowed, None))
            trial = replace(trial, choices=choices)
        return trial if self.price(trial.choices) <= most + 1e-6 else replace(trial, choices={})

    def _timely(self, problem: Problem, trial: Trial, found: dict[str, Any]) -> Trial:
        """A plan within the limit of time, measured."""
        rest, options = problem.without(trial.dropped), self.options
        freely, seen = freed(trial.recipe, options), 0

        def look(plan: Trial, allowed: float) -> Look | None:
            nonlocal seen
            self.context.progress("timing plans", seen, None)
            new, seen = self.carried_out(plan.choices), seen + 1
            limit = self.limit(new)
            took = decided(partial(self.timed, new), limit)
            return None if took is None else Look(plan, allowed, took, limit)

        def again(plan: Trial, allowed: float) -> Trial:
            budget = Budget(options.budget, options.ratio, allowed) if allowed else Budget(None, 0.0)
            return replace(plan, choices=solve(rest, freely, budget))

        search = Timely(look, again, lambda plan: self.objective(plan.choices)[0])
        trial, log = search.plan(trial, problem.cost(trial.choices).time)
        limit = log[-1].limit if log else options.max_latency
        found["time"] = {"limit": limit, "measured": [n.entry for n in log]}
        return trial

    # ---- a budget ---------------------------------------------------------------------------------------------------

    def within(self, log_to: dict[str, Any], found: dict[str, Any] | None = None) -> Judged:
        """The best plan within the budget; the model as it is where none is worth its cost.

        Args:
            log_to: plans that were compared, by name.
            found: what else was found is added to it.
        """
        options = self.options
        problem = self.problem.on(LEARNT)
        budget = self._corrected(problem)
        trial = self._best(problem, budget, log_to, options.effort == "full")
        unseen = self.objective(trial.choices)  # by samples that this plan was not made from
        macs, ratio, time = problem.cost(trial.choices)
        del problem  # its tables make room for others
        give_back()
        problem = self.problem.on(None, copies=macs > 0 or ratio > 0)
        # the same way, for the same regions, at the same cost, from all samples
        spent = Budget(macs, None) if budget.ratio is None else Budget(None, ratio)
        spent = spent if budget.time is None else replace(spent, time=time)
        again = solve(problem.without(trial.dropped), replace(trial.recipe, share=1.0), spent)
        # that plan has seen the samples it is judged on: if it is no better even so, the other one is kept
        if self.objective(again)[0] < unseen[0]:
            trial = replace(trial, choices=again)
        if options.budget is not None:
            trial = self._affordable(problem, trial, options.budget)
        if options.max_latency is not None:
            trial = self._timely(problem, trial, {} if found is None else found)
        after = self.objective(trial.choices)
        gains = all(worth(self.before, found, self.judge.objective) for found in (after, unseen))
        if gains and self.surely(trial.choices):
            return self._folding(Judged(trial, unseen, after))
        return self._folding(Judged(replace(self.untouched, dropped=trial.dropped), unseen, self.before))

    def _folding(self, judged: Judged) -> Judged:
        """The same with copies that are folded back for all readers, where they pay on unseen samples."""
        if not self.problem.foldable:
            return judged
        trial, limit = judged.trial, self.options.max_latency
        self.context.progress("folding copies", 0, None)
        choices = folded(self.problem, self.judge, trial.choices, self._in_time)
        if choices is trial.choices and limit is not None and makes_copies(choices):
            steps = self._steps(trial)  # other copies leave no time: perhaps it is better spent here
            choices = folded(self.problem, self.judge, steps, self._in_time)
            choices = trial.choices if choices is steps else choices
        after = self.objective(choices)
        if choices is trial.choices or not worth(judged.after, after, self.judge.objective):
            return judged
        return Judged(replace(trial, name=f"{trial.name}, copies folded back", choices=choices), after, after)

    def _steps(self, trial: Trial) -> Choices:
        """What a trial's recipe makes without copies."""
        problem = self.problem.on(None, copies=False).without(trial.dropped)
        return solve(problem, freed(trial.recipe, self.options), Budget(None, 0.0))

    def _corrected(self, problem: Problem) -> Budget:
        """The budget; less where copies travel on, which the price list does not know."""
        options = self.options
        budget = Budget(options.budget, options.ratio, options.extra_time)
        if options.budget is None:
            return budget
        first = solve(problem, Recipe(options.copies, 1.0, options.rescale), budget)
        real = self.price(first)
        known = problem.cost(first).macs
        return budget if real <= options.budget else replace(budget, macs=options.budget * known / real)

    def sparing(self, judged: Judged, spare: Callable[[], Problem], found: dict[str, Any]) -> tuple[Judged, Problem]:
        """The best plan that costs no integer operator, where the best of all costs more than it gains.

        The budget counts multiply-accumulates, and those of a layer that runs in float take several times as long; so
        do sums, products and pools, and Transposes come in between.  So the copies must halve the error if there are
        as many of these as layers and integer operators, and in proportion if there are fewer.  They are left out where
        both halves of the samples say that they do not: one alone may be luck.

        Args:
            judged: a plan that may cost operators.
            spare: makes the problem of mode "integer", with the same damage.
            found: what was found is added to it.

        Returns:
            The plan that is taken, and its problem.
        """
        choices = judged.trial.choices
        whole = operators(self.model) if makes_copies(choices) else None
        left = operators(self.carried_out(choices)) if whole and whole.integer else None
        if whole is None or left is None or not whole.lost(left):
            return judged, self.problem
        log_to: dict[str, Any] = {}
        told: dict[str, Any] = {}
        other = replace(self, problem=spare())
        spared = other.within(log_to, told)
        halves = self.judge, self.check()  # both plans have seen all samples
        errors = [[h(self.problem.settings(c))[0] for h in halves] for c in (choices, spared.trial.choices)]
        gains = 10 * np.diff(np.log10(np.maximum(errors, 1e-30)), axis=0)[0]
        lost, between = whole.lost(left), whole.between(left)
        layers = sum(macs > 0 for macs in self.problem.base.values())
        kept = bool(np.all(gains < HALVED * (lost + between) / (layers + whole.integer - whole.layers)))
        gain = float(gains.mean())
        why = f"they would cost {lost} of {whole.integer} integer operators"
        why += f", put {between} Transposes in between" if between else ""
        why += f" and gain {gain:.2f} dB of the objective"
        found["kernels"] = {
            "of": whole.integer, "lost": lost, "transposes": between, "gain_db": gain, "kept": kept, "why": why,
        }  # fmt: skip
        found["candidates"] |= {f"{name}, kernels kept": c for name, c in log_to.items()}
        if not kept:
            return judged, self.problem
        found |= told
        name = spared.trial.name
        if name != self.untouched.name:
            spared = replace(spared, trial=replace(spared.trial, name=f"{name}, kernels kept"))
        return spared, other.problem

    # ---- a target ---------------------------------------------------------------------------------------------------

    def reach(self, target: Target, measure: Callable[[Plan], Quality], found: dict[str, Any]) -> Judged:
        """The cheapest plan that reaches a target, by the quality of the models that the plans make.

        Args:
            target: the quality that is wanted.
            measure: the quality of the model that a plan makes.
            found: what was found is added to it.
        """
        problem = self.problem.on(LEARNT)
        in_macs = self.options.ratio is None
        limit = self.options.budget if in_macs else self.options.ratio
        probes: list[tuple[Probe, dict[str, Any]]] = []

        def probe(allowed: float, trial: Trial) -> Probe:
            if in_macs:
                trial = self._affordable(problem, trial, allowed)
            if self.options.max_latency is not None:
                trial = self._timely(problem, trial, found)
            macs, ratio = self.price(trial.choices), problem.cost(trial.choices).ratio
            value = target.value(measure(Plan(self.hash, problem.planned(trial.choices))))
            entry = {"allowed": allowed, "plan": trial.name, "extra_macs": macs, "mean_copies": ratio, "got": value}
            probes.append((Probe(allowed, macs if in_macs else ratio, value, trial), entry))
            return probes[-1][0]

        def attempt(amount: float, log_to: dict[str, Any], thorough: bool) -> Probe:
            budget = Budget(amount, None) if in_macs else Budget(None, amount)
            budget = replace(budget, time=self.options.extra_time)
            return probe(amount, self._best(problem, budget, log_to, thorough))

        best = search(
            probe(0.0, self.untouched),
            lambda amount: attempt(amount, {}, False),
            lambda amount: attempt(amount, found["candidates"], True),
            np.inf if limit is None else limit,
            target.wanted,
        )
        log = [entry | {"chosen": p is best} for p, entry in probes]
        found["target"] = {**target.outcome(best.value), "probes": log}
        trial: Trial = best.trial
        after = self.objective(trial.choices)
        return Judged(trial, after, after)
