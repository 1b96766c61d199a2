"""What is done to a quantized file in one row of a table, and what came of it, for each seed.

A row is done once: files and figures stay beside the network, and what is there is not done again.  So tables share
their rows, and one that was interrupted goes on where it was.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx

from models.commandline import cpu_seconds
from models.quantizers.registry import label, read_samples
from models.tables.bench import Bench, Setting, Subject, plain, planned, with_passes
from models.tables.metrics import Scores, evaluate, first_output
from onnx_ocs import PlanOptions
from onnx_ocs.measurement.cost import cost
from onnx_ocs.passes import Compensate, Pass, Reconstruct, Split, Translate
from onnx_ocs.runtime.session import Session

__all__ = ["Fit", "Recipe", "fits"]

Array = npt.NDArray[Any]
ROUNDS = 200  # timed runs of each of two models, in turns, or as many as fit into
LONGEST = 3.0  # seconds


@dataclass(frozen=True)
class Recipe:
    """The passes of one row, in their order.

    Attributes:
        copies: "OCS" halves channels, "OCS+" moves what is clipped into copies, both by the paper's rule; "" neither.
        ratio: the rule's k.
        early: only where the producer makes the copies, as the paper does.
        budget: steps and copies are planned within so many MACs more, instead of by the rule; None: they are not.
        fitted: `reconstruct` follows.
        refined: so many steps with gradients follow it.
        branches: `compensate` follows.
    """

    copies: Literal["", "OCS", "OCS+"] = ""
    ratio: float = 0.0
    early: bool = False
    budget: float | None = None
    fitted: bool = False
    refined: int = 0
    branches: Literal["", "linear", "nonlinear"] = ""

    @property
    def title(self) -> str:
        """The row's name, which is also that of its files."""
        parts = [f"{self.copies}, k = {self.ratio:g}{', early' * self.early}"] * bool(self.copies)
        if self.budget is not None:
            parts.append(f"planned, +{100 * self.budget:g} %" if self.budget else "steps planned")
        parts += ["reconstructed"] * self.fitted + [f"refined ({self.refined} steps)"] * bool(self.refined)
        parts += [f"{self.branches} branches"] * bool(self.branches)
        return ", ".join(parts) or "as quantized"

    def run(self, subject: Subject) -> onnx.ModelProto:
        """Do it."""
        passes: list[Pass] = []
        if self.copies:
            mode: Literal["early", "auto"] = "early" if self.early else "auto"
            passes.append(Split(self.ratio, mode) if self.copies == "OCS" else Translate(self.ratio, 1, mode))
        if self.budget is not None:
            passes.append(Translate())
        if self.fitted:
            passes.append(Reconstruct(refine=str(self.refined) if self.refined else None))
        if self.branches:
            passes.append(Compensate(linear=self.branches == "linear"))
        if not passes:
            return plain(subject)
        if self.budget is None:
            return with_passes(*passes)(subject)
        return planned(PlanOptions(budget=self.budget), *passes)(subject)


@dataclass(frozen=True)
class Fit:
    """What came of a recipe with one seed.

    Attributes:
        task, agreement, sqnr_db: on the test samples, as in `Scores`.
        macs: multiply-accumulates, of the quantized file's.
        params: the same of parameters.
        nodes: nodes more.
        latency: time of one sample in onnxruntime on one thread, of the quantized file's, the two timed in turns.
        seconds: CPU time that the rewrite took, without judging it.
    """

    task: float | None
    agreement: float
    sqnr_db: float | None
    macs: float
    params: float
    nodes: int
    latency: float
    seconds: float

    @property
    def scores(self) -> Scores:
        """What the other tables work with."""
        return Scores(self.task, self.agreement, self.sqnr_db)


def fits(bench: Bench, setting: Setting, recipes: Sequence[Recipe]) -> dict[Recipe, list[Fit]]:
    """Of each recipe, for each seed."""
    found: dict[Recipe, list[Fit]] = {r: [] for r in recipes}
    for subject in bench.subjects(setting):
        for recipe in recipes:
            found[recipe].append(_fit(bench, subject, recipe))
    return found


def _fit(bench: Bench, subject: Subject, recipe: Recipe) -> Fit:
    """The figures, from the folder or made."""
    setting, folder = subject.setting, subject.built.calib.parent
    name = label(setting.quantizer, setting.weight_bits, setting.act_bits)
    path = folder / f"{setting.network}.{name}.{recipe.title.replace(', ', '_').replace(' ', '')}.onnx"
    kept = path.with_suffix(".json")
    if kept.exists():
        return Fit(**json.loads(kept.read_text(encoding="utf-8")))
    print(f"{folder.name} {setting.bits}: {recipe.title}", file=sys.stderr, flush=True)
    start = cpu_seconds()
    model = recipe.run(subject)
    seconds = cpu_seconds() - start
    onnx.save(model, path)
    assert subject.built.test is not None
    scores = _judged(path, subject.built.float_model, subject.built.test, bench.network(setting.network).metric)
    before, after = (cost(m, kernels=False) for m in (plain(subject), model))
    same = (before.macs, before.nodes) == (after.macs, after.nodes)  # other numbers in the same graph
    fit = Fit(
        **asdict(scores),
        macs=after.macs / before.macs,
        params=after.params / before.params,
        nodes=after.nodes - before.nodes,
        latency=1.0 if same else _latency(subject.quantized, path, subject),
        seconds=seconds,
    )
    kept.write_text(json.dumps(asdict(fit)), encoding="utf-8")
    return fit


@lru_cache(maxsize=1)
def _test(float_model: Path, test: Path) -> tuple[dict[str, Array], Array]:
    """The test samples, and what the float network answers: the same for all rows of a network."""
    with np.load(test, allow_pickle=False) as archive:
        samples = dict(archive)
    return samples, first_output(float_model, samples)


def _judged(path: Path, float_model: Path, test: Path, metric: str) -> Scores:
    samples, reference = _test(float_model, test)
    return evaluate(path, reference, samples, metric)


def _latency(before: Path, after: Path, subject: Subject) -> float:
    """How much longer a sample takes: the ratio of the medians of both models' runs in turns."""
    models = [onnx.load(p) for p in (before, after)]
    sessions = [Session(m, "enable_all", fusion=True, threads=1) for m in models]
    feed = {k: v[:1] for k, v in read_samples(models[0], subject.built.calib).items()}
    times: list[list[float]] = [[], []]
    end = time.perf_counter() + LONGEST
    for turn in range(-5, ROUNDS):
        for k in (0, 1) if turn % 2 else (1, 0):
            start = time.perf_counter()
            sessions[k].run(feed)
            if turn >= 0:
                times[k].append(time.perf_counter() - start)
        if turn >= 20 and time.perf_counter() > end:
            break
    return float(np.median(times[1]) / np.median(times[0]))
