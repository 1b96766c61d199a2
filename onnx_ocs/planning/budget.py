"""From a planner and its judges to one plan: within a budget, without needless loss of kernels, or to a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from onnx_ocs.calibration.context import Context
from onnx_ocs.measurement.cost import cost
from onnx_ocs.measurement.quality import Quality
from onnx_ocs.model.graph import Graph
from onnx_ocs.planning.allocate import Budget, Choice, Planner
from onnx_ocs.planning.goal import Probe, search
from onnx_ocs.planning.objective import Judge, worth
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.plan import Plan, early_or_late
from onnx_ocs.planning.search import Made, _without, best_plan, improve
from onnx_ocs.regions.region import Region
from onnx_ocs.targets.ort import integer_kernels
from onnx_ocs.translation.decision import Decision
from onnx_ocs.translation.widen import widened

__all__ = ["Chosen", "Spending", "affordable", "with_all"]

AS_IT_IS = "the model as it is"
HALVED = 10 * float(np.log10(2))  # dB to be gained if every layer loses its integer kernel; for some, their share


@dataclass(frozen=True)
class Chosen:
    """A plan.

    Attributes:
        name: how it was made.
        choices: what it does, by region.
        dropped: regions that were left out, since the samples are better off without.
        unseen: objective and SQNR of the plan from one half of the samples, on the other half.
        after: objective and SQNR of the plan that is applied, which all samples led to.
    """

    name: str
    choices: dict[int, Choice]
    dropped: Sequence[int]
    unseen: tuple[float, float]
    after: tuple[float, float]


@dataclass
class Spending:
    """What a search for a plan needs.

    Attributes:
        model: the model that is planned for.
        hash: its fingerprint.
        planner: its candidates, weighed.
        judge: the objective on samples that no plan is made from.
        check: makes the objective on the samples that plans are made from.
        options: what is asked for.
        context: progress.
        one: shapes of the model's inputs for one sample.
        before: objective and SQNR of the model as it is.
    """

    model: onnx.ModelProto
    hash: str
    planner: Planner
    judge: Judge
    check: Callable[[], Judge]
    options: PlanOptions
    context: Context
    one: Mapping[str, Sequence[int]]
    before: tuple[float, float]

    def price(self, choices: Mapping[int, Choice]) -> float:
        """Share of extra MACs of a plan, measured on the widened model."""
        return cost(self._widened(choices), self.one, kernels=False).macs / max(self.planner.total, 1) - 1

    def _widened(self, choices: Mapping[int, Choice]) -> onnx.ModelProto:
        copied = [p for p in self.planner.planned(choices) if p.copies.any() or p.copies_low.any()]

        def decide(graph: Graph, of: Mapping[tuple[str, tuple[str, ...]], Region]) -> list[Decision]:
            found = [early_or_late(graph, of[p.tensor, p.quantizers], p) for p in copied]
            return [d for d in found if isinstance(d, Decision)]

        return widened(self.model, decide)

    # ---- a budget ---------------------------------------------------------------------------------------------------

    def within(self, log_to: dict[str, Any]) -> Chosen:
        """The best plan within the budget; the model as it is where none is worth its cost.

        Args:
            log_to: plans that were compared, by name.
        """
        planner, judge, options = self.planner, self.judge, self.options
        budget = Budget(options.budget, options.ratio)
        if options.budget is not None:  # the price list is a little off where copies travel on: correct it once
            planner.prepare(options.copies)
            planner.weigh(1.0)
            first = planner.allocate(budget, options.rescale)
            real = self.price(first)
            if real > options.budget:
                budget = Budget(options.budget * planner.spend(first)[0] / real, None)
        made, dropped = self._best(budget, log_to, options.effort == "full")
        unseen = judge(planner.settings(made.choices))  # by samples that this plan was not made from
        again = with_all(planner, made, dropped, budget, options.rescale)
        # that plan has seen the samples it is judged on: if it is no better even so, the other one is kept
        more = judge(planner.settings(again))[0] < unseen[0]
        choices = again if more else made.choices
        if options.budget is not None:
            choices = affordable(self.price, planner, choices, dropped, options.budget, options.rescale)
        after = judge(planner.settings(choices))
        if worth(self.before, after, judge.objective) and worth(self.before, unseen, judge.objective):
            return Chosen(made.name, choices, dropped, unseen, after)
        return Chosen(AS_IT_IS, {}, dropped, unseen, self.before)

    def _best(self, budget: Budget, log_to: dict[str, Any], thorough: bool) -> tuple[Made, Sequence[int]]:
        made = best_plan(self.planner, self.judge, budget, self.options, self.context.progress, log_to)
        if not thorough:
            return made, ()
        return improve(
            self.planner, self.judge, self.check(), budget, self.options, made, self.context.progress, log_to
        )

    def sparing(self, chosen: Chosen, spare: Callable[[], Planner], found: dict[str, Any]) -> Chosen:
        """The best plan that costs no layer its integer kernel, where the chosen one costs more than it gains.

        The budget counts multiply-accumulates, and those of a layer that runs in float take several times as long.
        So the copies must halve the error if all layers lose their kernels, and in proportion if some do.  They are
        left out where both halves of the samples say that they do not: one alone may be luck.

        Args:
            chosen: a plan that may cost kernels.
            spare: makes the planner of mode "integer", weighed as this one; it takes this one's place if its plan is
                chosen.
            found: what was found is added to it.
        """
        copied = any(c.copies.any() or c.copies_low.any() for c in chosen.choices.values())
        whole = integer_kernels(self.model) if copied else None
        left = integer_kernels(self._widened(chosen.choices)) if whole else None
        if not whole or left is None or left >= whole:
            return chosen
        log_to: dict[str, Any] = {}
        other = replace(self, planner=spare())
        spared = other.within(log_to)
        halves = self.judge, self.check()  # both plans have seen all samples
        errors = [[h(self.planner.settings(c))[0] for h in halves] for c in (chosen.choices, spared.choices)]
        gains, lost = 10 * np.diff(np.log10(np.maximum(errors, 1e-30)), axis=0)[0], whole - left
        layers = sum(macs > 0 for macs in self.planner.base.values())
        kept = bool(np.all(gains < HALVED * lost / layers))
        gain = float(gains.mean())
        why = f"they would cost {lost} of {whole} integer kernels and gain {gain:.2f} dB of the objective"
        found["kernels"] = {"of": whole, "lost": lost, "gain_db": gain, "kept": kept, "why": why}
        found["candidates"] |= {f"{name}, kernels kept": c for name, c in log_to.items()}
        if not kept:
            return chosen
        self.planner = other.planner
        return replace(spared, name=spared.name if spared.name == AS_IT_IS else f"{spared.name}, kernels kept")

    # ---- a target ---------------------------------------------------------------------------------------------------

    def reach(self, measure: Callable[[Plan], Quality], found: dict[str, Any]) -> Chosen:
        """The cheapest plan that reaches the target, by the quality of the models that the plans make.

        Args:
            measure: the quality of the model that a plan makes.
            found: what was found is added to it.
        """
        target, options, planner = self.options.target, self.options, self.planner
        assert target is not None
        in_macs = options.ratio is None
        limit = options.budget if in_macs else options.ratio
        log: list[dict[str, Any]] = []
        probes: list[Probe] = []

        def budget(amount: float) -> Budget:
            return Budget(amount, None) if in_macs else Budget(None, amount)

        def probe(allowed: float, name: str, choices: dict[int, Choice], dropped: Sequence[int] = ()) -> Probe:
            if in_macs:
                choices = affordable(self.price, planner, choices, dropped, allowed, options.rescale)
            macs, ratio = self.price(choices), planner.spend(choices)[1]
            value = target.value(measure(Plan(self.hash, planner.planned(choices))))
            log.append({"allowed": allowed, "plan": name, "extra_macs": macs, "mean_copies": ratio, "got": value})
            probes.append(Probe(allowed, macs if in_macs else ratio, value, (name, choices, dropped)))
            return probes[-1]

        def quick(amount: float) -> Probe:
            made, _ = self._best(budget(amount), {}, thorough=False)
            return probe(amount, made.name, made.choices)

        def thorough(amount: float) -> Probe:
            made, dropped = self._best(budget(amount), found["candidates"], thorough=True)
            return probe(amount, made.name, made.choices, dropped)

        as_it_is = probe(0.0, AS_IT_IS, {})
        best = search(as_it_is, quick, thorough, np.inf if limit is None else limit, target.wanted)
        found["target"] = {**target.outcome(best.value), "probes": log}
        for entry, p in zip(log, probes, strict=True):
            entry["chosen"] = p is best
        name, choices, dropped = best.plan
        after = self.judge(planner.settings(choices))
        return Chosen(name, choices, dropped, after, after)


def affordable(
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


def with_all(planner: Planner, made: Made, dropped: Sequence[int], budget: Budget, rescale: bool) -> dict[int, Choice]:
    """The plan that half of the samples led to, made again from all of them: the same way, for the same regions."""
    (macs, ratio), most = planner.spend(made.choices), planner.most
    planner.tabulate(rescale, copies=macs > 0 or ratio > 0)
    planner.prepare(most)
    spent = Budget(macs, None) if budget.ratio is None else Budget(None, ratio)
    return _without(planner, dropped, lambda: made.how(spent))
