"""Find dead channels of the outputs, mend what kills them, keep what is better on samples that it was not made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import Samples
from onnx_ocs.measurement.quality import EXACT_DB, Quality, compare, losing
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import label
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passmanager import Pass, PassResult
from onnx_ocs.probes.reference import reference
from onnx_ocs.records.history import history
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Key, Quantized
from onnx_ocs.regridding.dead import Dead, Killer, dead_channels, find_killers
from onnx_ocs.regridding.entries import killer_entry
from onnx_ocs.regridding.mend import WAYS, Mended, Way, mend, parts_of
from onnx_ocs.regridding.seen import extremes, halves

__all__ = ["found_killers", "regrid"]

BY = "regrid"
CLEARLY = 0.1  # decibels by which leaving out must be better than grids
NEEDS = "regrid: dead channels are found on calibration samples: give --calib"


def regrid(model: onnx.ModelProto, context: Context, by: Pass) -> PassResult:
    """Mend the quantizers that kill channels of outputs, in place.

    Args:
        model: the model.
        context: calibration samples, and the float model if there is one.
        by: the pass; its name and version are written on all that is edited.

    Returns:
        One entry for each quantizer that kills a channel.

    Raises:
        UserError: the model does not run on the samples.
    """
    if context.again or history(model):
        return PassResult(False)
    if context.samples is None:
        return PassResult(False, notes=[NEEDS])
    graph = Graph(model)
    regions = find_regions(graph, infer_shapes(model))
    plain = reference(model, regions)
    truth = plain if context.floats is None else context.floats
    samples, learn, unseen = halves(context.samples, context.limit)
    dead = dead_channels(compare(truth, [model], samples)[0])
    if not dead:
        return PassResult(False)
    killers = find_killers(model, regions, truth, dead, samples)
    tensors = [regions[k.index].tensor for k in killers]
    seen = extremes(plain, [t for k in tensors for t in (k, *parts_of(graph, k).values())], learn)
    tried = [mend(model, [regions[k.index].key for k in killers], ways, seen, by) for ways in WAYS]
    best = _best(model, tried, truth, unseen)
    if best is not None:
        model.CopyFrom(best.model)
    told = best or Mended(model, _refused(tried, regions, killers))
    entries = [killer_entry(by.name, regions[k.index], k.dead, told, seen) for k in killers]
    return PassResult(best is not None, grids=entries, notes=_notes(dead, killers))


def found_killers(
    model: onnx.ModelProto, regions: Sequence[Quantized], truth: onnx.ModelProto, quality: Quality, context: Context
) -> list[dict[str, Any]]:
    """The quantizers that kill channels of outputs, to be told: one entry for each.

    Args:
        model: the QDQ model; not changed.
        regions: its regions.
        truth: the reference.
        quality: of the model beside it.
        context: calibration samples.
    """
    dead = dead_channels(quality)
    if not dead or context.samples is None:
        return []
    samples, _, _ = halves(context.samples, context.limit)
    killers = find_killers(model, regions, truth, dead, samples)
    seen = extremes(reference(model, regions), [regions[k.index].tensor for k in killers], samples)
    return [killer_entry(BY, regions[k.index], k.dead, None, seen) for k in killers]


def _best(
    model: onnx.ModelProto, tried: Sequence[Mended], truth: onnx.ModelProto, unseen: Samples
) -> Mended | None:
    """The model with the fewest dead channels, of those where no output is worse; then the better one."""
    able = [m for m in tried if m.changed]
    before, *found = compare(truth, [model, *(m.model for m in able)], unseen)
    best, dead, gain = None, _count(before), 0.0
    for m, after in zip(able, found, strict=True):
        now, won = _count(after), _gain(before, after)
        better = now < dead or (best is not None and now == dead and won > gain + CLEARLY)
        if better and losing(before, after) is None:
            best, dead, gain = m, now, won
    return best


def _count(quality: Quality) -> int:
    return sum(map(len, dead_channels(quality).values()))


def _gain(before: Quality, after: Quality) -> float:
    """Decibels won, over all outputs and groups of channels."""

    def levels(q: Quality) -> list[float]:
        parts = [v for o in q.outputs for v in ([g.sqnr_db for g in o.groups] or [o.sqnr_db]) if o.kind != "labels"]
        return [EXACT_DB if v is None else min(v, EXACT_DB) for v in parts]

    return float(np.sum(np.subtract(levels(after), levels(before))))


def _refused(
    tried: Sequence[Mended], regions: Sequence[Quantized], killers: Sequence[Killer]
) -> dict[Key, Way | Refusal]:
    """Why each quantizer stays: what stands against it, else that it is no better."""
    found: dict[Key, Way | Refusal] = {}
    for k in killers:
        r = regions[k.index]
        why = tried[0].done.get(r.key)
        found[r.key] = why if isinstance(why, Refusal) else Refusal.of("still_worse", label(r.nodes[0]))
    return found


def _notes(dead: Dead, killers: Sequence[Killer]) -> list[str]:
    """What is dead, and nobody's fault."""
    known = {(o, c) for k in killers for o, channels in k.dead.items() for c in channels}
    return [
        f"{len(rest)} channel{'s' * (len(rest) != 1)} of the output '{o}' never change, while the reference's do, and "
        f"no quantizer between it and the layers before it does that alone"
        for o, channels in dead.items()
        if (rest := [c for c in channels if (o, c) not in known])
    ]
