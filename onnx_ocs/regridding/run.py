"""Find dead channels of the outputs, mend what kills them, keep what is better on samples that it was not made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.judging import Judging
from onnx_ocs.calibration.samples import Samples
from onnx_ocs.measurement.answers import Known
from onnx_ocs.measurement.quality import EXACT_DB, Quality, compare, losing
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, label
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passmanager import Pass, PassResult
from onnx_ocs.probes.reference import reference
from onnx_ocs.records.history import history
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.masked import floored, softmax_axes
from onnx_ocs.regions.region import Key, Quantized, Region
from onnx_ocs.regions.relu6 import Bounded
from onnx_ocs.regridding.dead import Dead, Killer, dead_channels, find_killers
from onnx_ocs.regridding.entries import killer_entry
from onnx_ocs.regridding.even import Evening, Products
from onnx_ocs.regridding.grids import Grid
from onnx_ocs.regridding.lengthen import MOST, Lengthening, Shorts
from onnx_ocs.regridding.mend import QUANTIZED, WAYS, Mended, Way, mend, parts_of, renewed
from onnx_ocs.regridding.move import better_grids, movable
from onnx_ocs.regridding.seen import extremes, halves, held_out, seen_of
from onnx_ocs.regridding.sign import without_sign
from onnx_ocs.runtime.session import attempt

__all__ = ["found_killers", "regrid"]

BY = "regrid"
CLEARLY = 0.1  # decibels that count as a gain
ONE_BY_ONE = 16  # most zero-points that are tried one by one
BEFORE = "16 bits: the file was rewritten before, so nothing was chosen: give the original file"
NEEDS = "regrid: dead channels are found on calibration samples: give --calib"


def regrid(
    model: onnx.ModelProto, context: Context, by: Pass, floats: bool = True, moves: bool = True, signs: bool = True,
    shorts: Shorts | None = None, gains: bool = True, products: Products | None = None,
) -> PassResult:  # fmt: skip
    """Mend the quantizers that kill channels of outputs, then move zero-points where that pays, in place.

    Then channels get gains that their neighbours absorb, and the worst tensors 16 bits, where that is asked for.  In
    the end integers lose their sign where layers find integer kernels for it.

    Args:
        model: the model.
        context: calibration samples, and the float model if there is one.
        by: the pass; its name and version are written on all that is edited.
        floats: whether quantizers may be left out; else they are split, or get another grid.
        moves: whether zero-points may be moved.
        signs: whether integers may be stored without a sign.
        shorts: what quantizers of 16 bits may be like; None: there are none.
        gains: whether channels may have gains.
        products: what products of their own may cost that give some; None: there are none.

    Returns:
        One entry for each quantizer that kills a channel, gets another zero-point, gains or 16 bits, or loses its sign.

    Raises:
        UserError: the model does not run on the samples.
    """
    if context.again or history(model):
        asked = shorts is not None and not context.again
        return PassResult(False, notes=[BEFORE] if asked else [])
    if context.samples is None:
        return PassResult(False, notes=[NEEDS])
    context.progress("looking for dead channels", 0, None)
    halved = halves(context.samples, context.limit)
    found = _Found(model, context.bounded)
    work = _Work(context.floats or found.plain, halved, by, context.bounded, context.judging)
    mended = work.alive(found, floats)
    if mended.changed:
        found = _Found(model, context.bounded)
    context.progress("moving zero-points", 0, None)
    moved = work.moved(found) if moves else PassResult(False)
    found = _Found(model, context.bounded) if moved.changed else found
    context.progress("looking for gains", 0, None)
    original = context.original or model
    scaled = work.gained(found, original, products) if gains else PassResult(False)
    longer = PassResult(False)
    if shorts is not None:
        found = _Found(model, context.bounded) if scaled.changed else found
        context.progress("choosing 16 bits", 0, None)
        longer = work.longer(found, shorts, original, held_out(context.samples, context.limit, MOST))
    stored = without_sign(model, found.regions, by, context.bounded) if signs else []
    changed = mended.changed or moved.changed or scaled.changed or longer.changed or bool(stored)
    grids = mended.grids + moved.grids + scaled.grids + longer.grids + stored
    return PassResult(changed, grids=grids, notes=mended.notes + longer.notes)


class _Found:
    """A model, and what is found in it, once."""

    def __init__(self, model: onnx.ModelProto, bounded: Bounded) -> None:
        self.model, self.graph = model, Graph(model)
        self.regions = find_regions(self.graph, infer_shapes(model), bounded=bounded)

    @cached_property
    def plain(self) -> onnx.ModelProto:
        """It without activation quantizers."""
        return reference(self.model, self.regions)


@dataclass(frozen=True, eq=False)
class _Work:
    """What is measured against, and on.

    Attributes:
        truth: the reference.
        samples: all, those to learn from, those to judge on.
        by: the pass.
        bounded: which tensors the float model bounds at 6.
        judging: which outputs count, and the user's metric.
    """

    truth: onnx.ModelProto
    samples: tuple[Samples, Samples, Samples]
    by: Pass
    bounded: Bounded
    judging: Judging

    @cached_property
    def _known(self) -> Known:
        return Known(self.truth)

    def alive(self, found: _Found, floats: bool) -> PassResult:
        """Mend what kills channels, in place."""
        samples, learn, _ = self.samples
        model, graph, regions = found.model, found.graph, found.regions
        dead = dead_channels(compare(self.truth, [model], samples, known=self._known)[0])
        if not dead:
            return PassResult(False)
        killers = find_killers(model, regions, self.truth, dead, samples)
        tensors = [regions[k.index].tensor for k in killers]
        seen = extremes(found.plain, [t for k in tensors for t in (k, *parts_of(graph, k).values())], learn)
        wanted = [regions[k.index].key for k in killers]
        tried = [mend(model, wanted, ways, seen, self.by, self.bounded) for ways in (WAYS if floats else QUANTIZED)]
        best = self._best(model, tried)
        told = best or Mended(model, _refused(tried, regions, killers))
        entries = [killer_entry(self.by.name, regions[k.index], k.dead, told, seen) for k in killers]
        if best is not None:
            model.CopyFrom(best.model)
        return PassResult(best is not None, grids=entries, notes=_notes(dead, killers))

    def moved(self, found: _Found) -> PassResult:
        """Move zero-points where that pays, in place: all at once, else those that gain by themselves."""
        model, regions, (_, learn, _) = found.model, found.regions, self.samples
        masked = softmax_axes(found.graph, regions)
        may = [r.tensor for r in regions if isinstance(r, Region) and (movable(r) or r.tensor in masked)]
        if not may:
            return PassResult(False)

        def as_counted(tensor: str, value: Array) -> Array:
            return floored(found.graph, value, masked[tensor]) if tensor in masked else value

        seen, values = seen_of(found.plain, may, learn, as_counted=as_counted)
        grids = better_grids(found.graph, regions, seen, values, masked)
        if not grids:
            return PassResult(False)
        wanted = {regions[k].key: g for k, g in grids.items()}
        best = self._gaining(model, wanted)
        if best is None:
            return PassResult(False)
        kept = [k for k in grids if regions[k].key in best.grids]
        entries = [killer_entry(self.by.name, regions[k], {}, best, seen) for k in kept]
        model.CopyFrom(best.model)
        return PassResult(True, grids=entries)

    def gained(self, found: _Found, original: onnx.ModelProto, products: Products | None) -> PassResult:
        """Give channels gains where that pays, in place."""

        def won(before: Quality, after: Quality) -> float | None:
            return _gain(before, after) if losing(before, after) is None else None

        even = Evening(original, self.samples[1], lambda m: self._compared(m)[0], won, self.by, self.bounded)
        entries = even.run(found.model, found.graph, found.regions, found.plain, products)
        return PassResult(bool(entries), grids=entries)

    def longer(self, found: _Found, shorts: Shorts, original: onnx.ModelProto, judge: Samples) -> PassResult:
        """Give the worst quantizers 16 bits, in place."""
        work = Lengthening(original, self.truth, self.samples[1], judge, self.judging, shorts, self.by, self.bounded)
        entries, notes = work.run(found.model, found.graph, found.regions, found.plain)
        return PassResult(any(e["status"] == "applied" for e in entries), grids=entries, notes=notes)

    def _compared(self, *models: onnx.ModelProto) -> list[Quality]:
        """Models beside the reference, on samples that they were not made from."""
        return compare(self.truth, models, self.samples[2], judging=self.judging, known=self._known)

    def _gaining(self, model: onnx.ModelProto, wanted: Mapping[Key, Grid]) -> Mended | None:
        """The model with the grids that gain together, where no output is worse; else with those that gain alone."""
        whole = renewed(model, wanted, self.by, self.bounded)
        before, after = self._compared(model, whole.model)
        if whole.changed and losing(before, after) is None and _gain(before, after) > CLEARLY:
            return whole
        best: Mended | None = None
        kept: dict[Key, Grid] = {}
        for key in [*wanted][:ONE_BY_ONE]:
            tried = renewed(model, {**kept, key: wanted[key]}, self.by, self.bounded)
            (after,) = self._compared(tried.model)
            better = losing(before, after) is None and _gain(before, after) > CLEARLY
            if better and not isinstance(tried.done[key], Refusal):
                best, before, kept = tried, after, {**kept, key: wanted[key]}
        return best

    def _best(self, model: onnx.ModelProto, tried: Sequence[Mended]) -> Mended | None:
        """The model with the fewest dead channels, of those where no output is worse; then the better one."""
        able = [m for m in tried if m.changed and not isinstance(attempt(m.model, "disable_all"), str)]
        before, *found = self._compared(model, *(m.model for m in able))
        best, dead, gain = None, _count(before), 0.0
        for m, after in zip(able, found, strict=True):
            now, won = _count(after), _gain(before, after)
            better = now < dead or (best is not None and now == dead and won > gain + CLEARLY)
            if better and losing(before, after) is None:
                best, dead, gain = m, now, won
        return best


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
        f"constant in the input, but not in the reference: {len(rest)} channel{'s' * (len(rest) != 1)} of the output "
        f"'{o}', and no quantizer between it and the layers before it does that alone"
        for o, channels in dead.items()
        if (rest := [c for c in channels if (o, c) not in known])
    ]
