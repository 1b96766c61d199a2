"""How close a model's outputs are to those of the float model, output by output, and whether a rewrite loses there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx

from onnx_ocs.calibration.judging import EVERYTHING, Judging
from onnx_ocs.calibration.samples import Samples
from onnx_ocs.execution.engine import Engine
from onnx_ocs.measurement.answers import Known, answers
from onnx_ocs.measurement.channels import decibels
from onnx_ocs.measurement.gate import SURE
from onnx_ocs.measurement.metric import evaluate
from onnx_ocs.measurement.outputs import OutputQuality, OutputTally, judged_outputs
from onnx_ocs.measurement.yardstick import ANSWERS, OUTPUT_DB
from onnx_ocs.model.nodes import Array
from onnx_ocs.targets.timing import Timing

__all__ = ["Quality", "compare", "decibels", "gained", "losing", "told_db"]

LOSS_DB = 0.01  # what a rewrite may lose over all outputs together
FIRST = 1e6  # decibels that no gain of outputs reaches: the user's metric comes first
EXACT_DB = 100.0  # from here on the difference is float arithmetic's


@dataclass(frozen=True)
class Quality:
    """Closeness of a model's outputs to the reference's.

    Attributes:
        sqnr_db: of the first output: 10 log10(sum ref^2 / sum (ref - out)^2) over all samples; None where it is
            infinite, and for labels.
        agreement: of the first output: share of the reference's answers, 0..1; None where they are no class scores or
            labels.
        samples: number of samples.
        outputs: every graph output.
        metric: the user's own figure over all outputs; None where there is none.
    """

    sqnr_db: float | None
    agreement: float | None
    samples: int
    outputs: tuple[OutputQuality, ...] = ()
    metric: float | None = None


def losing(before: Quality, after: Quality, tolerance_db: float = LOSS_DB) -> str | None:
    """Say where a rewrite loses; None where it does not.

    No output may get worse, each relative to its own energy, nor a group of its channels: by no more than
    `tolerance_db` where there is one, by no more than `OUTPUT_DB` where there are several, and then the outputs may
    lose no more than `tolerance_db` on the whole.  Scores that lose decibels and gain more agreement than chance gives
    do not lose; labels go by agreement alone; outputs that do not count may lose.  Where the user's metric sees a
    difference, it alone decides.

    Args:
        before: the model that was rewritten.
        after: the rewritten one, on the same samples.
        tolerance_db: the loss that is allowed.

    Returns:
        What loses, and the figures, such as "'scores' 34.50 dB -> 3.10 dB".
    """
    if before.metric is not None and after.metric is not None and before.metric != after.metric:
        return None if after.metric > before.metric else f"the metric {before.metric:.6g} -> {after.metric:.6g}"
    pairs = [(b, a) for b, a in zip(before.outputs, after.outputs, strict=True) if a.weight > 0]
    values = [(b, a) for b, a in pairs if a.kind != "labels"]
    each = tolerance_db if len(values) == 1 else max(tolerance_db, OUTPUT_DB)
    strict = [(b, a) for b, a in values if not _agrees_more(b, a)]
    worse = [t for b, a in strict for t in _parts(b, a) if _change(t) < -(each if t.whole else OUTPUT_DB)]
    wholes = [_Part(f"'{a.name}'", True, b.sqnr_db, a.sqnr_db) for b, a in strict]
    change = sum(a.weight * _change(t) for t, (_, a) in zip(wholes, strict, strict=True))
    if not worse and len(strict) == len(values) and change < -tolerance_db:
        worse = [t for t in wholes if _change(t) < 0]
    told = [f"{t.name} {told_db(t.before)} -> {told_db(t.after)}" for t in worse]
    told += [f"'{a.name}' {_percent(b)} -> {_percent(a)}" for b, a in pairs if a.kind == "labels" and _fewer(b, a)]
    return ", ".join(told) or None


def gained(before: Quality, after: Quality) -> float:
    """What a rewrite gains that loses nowhere: decibels over all outputs, and points of agreement of labels."""
    total = 0.0
    for b, a in zip(before.outputs, after.outputs, strict=True):
        if a.kind == "labels":
            total += a.weight * 100 * ((a.agreement or 0.0) - (b.agreement or 0.0))
        else:
            total += a.weight * _change(_Part(a.name, True, b.sqnr_db, a.sqnr_db))
    if before.metric is not None and after.metric is not None and before.metric != after.metric:
        return float(np.sign(after.metric - before.metric)) * FIRST + after.metric - before.metric
    return total


class _Part(NamedTuple):
    """An output, or a group of its channels, before and after."""

    name: str
    whole: bool
    before: float | None
    after: float | None


def _parts(before: OutputQuality, after: OutputQuality) -> list[_Part]:
    name = f"'{after.name}'"
    parts = [_Part(name, True, before.sqnr_db, after.sqnr_db)]
    for b, a in zip(before.groups, after.groups, strict=True):
        first, more = a.channels[0], len(a.channels) - 1
        which = f"{name} (channel {first}{f' and {more} more' if more else ''})"
        parts.append(_Part(which, False, b.sqnr_db, a.sqnr_db))
    return parts


def _change(part: _Part) -> float:
    before, after = (EXACT_DB if v is None else min(v, EXACT_DB) for v in (part.before, part.after))
    return 0.0 if before == after else after - before  # both may be infinite


def _agrees_more(before: OutputQuality, after: OutputQuality) -> bool:
    """Whether more answers are right than chance gives: those that are wrong now or then might have gone either way."""
    if after.agreement is None or before.agreement is None:
        return False
    gained = (after.agreement - before.agreement) * after.answers
    return gained > SURE * math.sqrt(max((2 - after.agreement - before.agreement) * after.answers, 0.0))


def _fewer(before: OutputQuality, after: OutputQuality) -> bool:
    if before.agreement is None or after.agreement is None:
        return False
    lost = before.agreement - after.agreement
    return lost > ANSWERS and round(lost * after.answers) > 1


def told_db(value: float | None) -> str:
    """An SQNR in words."""
    return "identical" if value is None else f"{value:.2f} dB"


def _percent(q: OutputQuality) -> str:
    return "no answer" if q.agreement is None else f"{100 * q.agreement:.2f} %"


def compare(
    reference: onnx.ModelProto,
    models: Sequence[onnx.ModelProto],
    samples: Samples,
    limit: int | None = None,
    tick: Callable[[int], None] | None = None,
    judging: Judging = EVERYTHING,
    engine: Engine | None = None,
    known: Known | None = None,
    on: Timing | None = None,
) -> list[Quality]:
    """Run models beside a reference, Q/DQ as written (no integer fusion), and compare every output.

    Args:
        reference: the float model.
        models: what to compare with it; all have the same graph outputs.
        samples: what to feed.
        limit: most samples.
        tick: called with the number of samples done.
        judging: what outputs count, and the user's metric; a metric keeps all outputs in memory.
        engine: who runs the models; None: this process.
        known: the reference's answers, where it is asked again and again on the same samples (by this process).
        on: another runtime for the models, as it optimizes them; the reference stays in onnxruntime.

    Raises:
        UserError: a model does not run on the samples, their outputs do not match, or the metric fails.
    """
    judged = judged_outputs(reference, models[0])
    names = [n for n, _, _ in judged]
    asked = [[truth for _, truth, _ in judged], *[names for _ in models]]
    tallies = [
        OutputTally(n, k == 0, quantized, len(models), judging.weight(n)) for k, (n, _, quantized) in enumerate(judged)
    ]

    count = 0
    kept: list[list[Mapping[str, Array]]] = [[] for _ in (reference, *models)]
    labels: list[Mapping[str, Array]] = []
    for size, given, (truth, *outputs) in answers((reference, *models), asked, samples, limit, engine, known, on):
        for k, tally in enumerate(tallies):
            tally.add(truth[k], [o[k] for o in outputs], size)
        if judging.metric is not None:
            labels.append(given)
            for found, values in zip(kept, (truth, *outputs), strict=True):
                found.append(dict(zip(names, values, strict=True)))
        count += size
        if tick:
            tick(size)
    metric = judging.metric
    metrics = [None if metric is None else evaluate(metric, found, kept[0], labels) for found in kept[1:]]
    return [_quality(tuple(t.quality(k) for t in tallies), count, m) for k, m in enumerate(metrics)]


def _quality(outputs: tuple[OutputQuality, ...], count: int, metric: float | None) -> Quality:
    first = outputs[0] if outputs else OutputQuality("", "values", None)
    return Quality(first.sqnr_db, first.agreement, count, outputs, metric)
