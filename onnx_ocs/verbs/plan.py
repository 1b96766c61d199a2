"""The verb plan: steps and copies within a budget, measured on calibration data."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import onnx

from onnx_ocs.calibration.context import Context, Progress, quiet
from onnx_ocs.calibration.judging import EVERYTHING, Judging
from onnx_ocs.calibration.samples import Source
from onnx_ocs.execution.choice import Choice, engine
from onnx_ocs.measurement.quality import Quality, compare
from onnx_ocs.model.files import write_bytes
from onnx_ocs.model.publishing import Transaction
from onnx_ocs.passes.reconstruct import Reconstruct
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import Pass, PassResult, log_results, run_passes
from onnx_ocs.planning.make import make_plan
from onnx_ocs.planning.options import LATENCY, PlanOptions
from onnx_ocs.planning.plan import Plan
from onnx_ocs.regions.find import folded_bounds
from onnx_ocs.verbs.checks import answers_for_the_model, load
from onnx_ocs.verbs.common import Model, open_model, reference_model

__all__ = ["Measured", "by_plan", "plan", "unsaid"]

KEPT = 2  # models of plans that were measured: as many as are compared with fitted weights


@answers_for_the_model
def plan(
    model: Model,
    calib: Source,
    options: PlanOptions | None = None,
    float_model: Model | None = None,
    seed: int = 0,
    limit: int | None = None,
    budgets: Sequence[float] = (),
    progress: Progress = quiet,
    transaction: Transaction | None = None,
    convert_qoperator: bool = False,
    judging: Judging = EVERYTHING,
    executor: Choice = None,
) -> tuple[Plan, dict[str, Any]]:
    """Plan steps and copies within a budget, measured on calibration data.

    Args:
        model: the QDQ model or its path; not changed.
        calib: calibration samples.
        options: budget and limits.
        float_model: the float model, as the reference.
        seed: of everything random.
        limit: most samples.
        budgets: further budgets, for a sweep of gain against cost.
        progress: called during long work.
        transaction: what else is written: new statistics are staged there, and the caller publishes all.
        convert_qoperator: convert integer operators (QLinear..., ConvInteger, ...) to QDQ first, where that is exact.
        judging: which outputs count, how much, and the user's metric.
        executor: who computes what is a sum over samples (`onnx_ocs.execution.choice`); the result is the same.

    Returns:
        The plan, and what was measured on the way.

    Raises:
        UserError: the model or the samples cannot be used.
    """
    opened = open_model(model, calib, limit, seed, convert_qoperator, judging)
    proto = opened.model
    floats = None if float_model is None else load(float_model)
    write = write_bytes if transaction is None else transaction.file
    bounded = folded_bounds(proto, floats)
    with engine(executor) as workers:
        context = Context(
            opened.samples, limit, seed, progress, floats=floats, bounded=bounded, write=write, judging=judging,
            engine=workers,
        )  # fmt: skip
        measure = Measured(proto, [Translate()], context)
        return make_plan(proto, options or PlanOptions(), context, floats, budgets, measure)


def unsaid(given: object, passes: Sequence[Pass]) -> PlanOptions | None:
    """What is planned where nobody says so: what the command line plans, for a `Translate` that nobody made.

    Args:
        given: the passes as the caller gave them: made, by name, or None.
        passes: what they stand for.

    Returns:
        The options; None for a `Translate` that the caller made: its own fields say what it does.
    """
    made = () if given is None or isinstance(given, str) or not isinstance(given, Sequence) else given
    planned = any(isinstance(p, Translate) and not any(p is m for m in made) for p in passes)
    return PlanOptions(max_latency=LATENCY) if planned else None


def by_plan(passes: Sequence[Pass], made: Plan) -> list[Pass]:
    """The passes, with the `Translate` among them set to a plan."""
    return [replace(p, plan=made) if isinstance(p, Translate) else p for p in passes]


class Measured:
    """How good a plan's model is, as the report will say it: rewritten, and run on all samples.

    Plans are compared without a refinement with gradients, which takes as many minutes as the user allows.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        passes: Sequence[Pass],
        context: Context,
        original: onnx.ModelProto | None = None,
    ) -> None:
        """Nothing is run yet.

        Args:
            model: the model that plans are made for; not changed.
            passes: what runs on it, the `Translate` among them by the plan.
            context: samples, reference, progress.
            original: the model before all passes, where some have run already.
        """
        self._model, self._passes, self._context, self._original = model, passes, context, original
        self._compared = [replace(p, refine=None) if isinstance(p, Reconstruct) else p for p in passes]
        self._against = cache(lambda: reference_model(model, context.floats)[0])
        self._made: dict[str, tuple[onnx.ModelProto, dict[str, PassResult]]] = {}

    def __call__(self, made: Plan) -> Quality:
        """A plan's quality on all samples."""
        context, samples = self._context, self._context.samples
        assert samples is not None
        context.progress("measuring plans", 0, None)
        new, _ = self._run(self._compared, made, logging.DEBUG)
        context.progress("measuring plans", 0, None)
        return compare(self._against(), [new], samples, context.limit, judging=context.judging, engine=context.engine)[
            0
        ]

    def carried_out(self, made: Plan) -> tuple[onnx.ModelProto, dict[str, PassResult]]:
        """The model that a plan makes, and what became of each pass; what was measured is not made again."""
        known = self._made.get(made.digest())
        if known is None or self._compared != list(self._passes):
            return self._run(self._passes, made, logging.INFO)
        log_results(known[1], logging.INFO)
        return known

    def _run(self, passes: Sequence[Pass], made: Plan, level: int) -> tuple[onnx.ModelProto, dict[str, PassResult]]:
        passes = by_plan(passes, made)
        found = run_passes(self._model, passes, self._context, level, self._original)
        last = [*self._made.items()][1 - KEPT :]
        self._made = {**dict(last), made.digest(): found}
        return found
