"""Where the loss comes from: what each quantized activation costs at the output when it alone is quantized.

The model without activation quantizers is run beside itself with one of them switched on, with all of them, with those
alone that a translation or another step can help, and with those alone that none can.  The last is a ceiling: whatever
is done about the others, the output does not come closer to the unquantized model than about that.  Errors of several
quantizers do not add up exactly, so neither do the shares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_ocs.calibration.context import Context
from onnx_ocs.errors import UserError
from onnx_ocs.measurement.quality import decibels
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array
from onnx_ocs.model.shapes import Shape
from onnx_ocs.probes.switchboard import Setting, Switchboard, narrow
from onnx_ocs.regions.region import STEP_ONLY, Quantized, Region, adjustable
from onnx_ocs.regions.steps import check_rescale

__all__ = ["Loss", "Share", "find_loss", "mendable"]

SAMPLES = 64  # most for groups of quantizers
WORK = 1e11  # multiply-accumulates for all quantizers one by one


@dataclass(frozen=True)
class Share:
    """What some quantizers cost at the output.

    Attributes:
        sqnr_db: 10 log10(sum ref^2 / sum (ref - out)^2) with only these switched on; None where nothing changes.
        share: their squared error, as a share of that of all quantizers together; None where there is none.
    """

    sqnr_db: float | None
    share: float | None


@dataclass(frozen=True)
class Loss:
    """What the quantized activations cost at the model's first output.

    Attributes:
        samples: number of samples for the groups.
        everything: all quantizers.
        mendable: those that a translation or another step can help.
        unmendable: all others.
        alone: by index of the region, each alone (on fewer samples where there are many).
        beyond: the regions that nothing can help, those that cost most first.
    """

    samples: int
    everything: Share
    mendable: Share
    unmendable: Share
    alone: dict[int, Share]
    beyond: tuple[int, ...]


def mendable(graph: Graph, regions: Sequence[Quantized]) -> list[bool]:
    """For each region whether copies or another step can help it, itself or through a quantizer upstream."""
    helped = {k: r for k, r in adjustable(regions).items() if _helped(graph, r)}
    carried = {id(n) for r in helped.values() for n in r.walk.carried}
    return [k in helped or all(id(n) in carried for n in r.nodes) for k, r in enumerate(regions)]


def _helped(graph: Graph, region: Region) -> bool:
    q = region.quantizer
    if region.refusal is None:
        return True
    if region.refusal.code not in STEP_ONLY:
        return False
    return q.scale.size == 1 and check_rescale(graph, region, q.scale / 2) is None  # a finer step may


def find_loss(
    model: onnx.ModelProto,
    graph: Graph,
    regions: Sequence[Quantized],
    shapes: Mapping[str, Shape],
    context: Context,
    macs: int,
) -> Loss | None:
    """Measure it on the context's samples.

    Args:
        model: the QDQ model; not changed.
        graph: its graph.
        regions: its regions.
        shapes: its tensors' shapes.
        context: the samples.
        macs: of the model, for one sample: the larger, the fewer samples for each quantizer alone.

    Returns:
        The loss; None where there is nothing to measure, or onnxruntime does not run the switched model.
    """
    used = [k for k, r in enumerate(regions) if r.quantizer is not None]
    if context.samples is None or not used:
        return None
    can = mendable(graph, regions)
    settings = {k: narrow(q) for k in used if (q := regions[k].quantizer) is not None}
    groups = (
        settings,
        {k: s for k, s in settings.items() if can[k]},
        {k: s for k, s in settings.items() if not can[k]},
    )
    few = int(np.clip(WORK / max(macs * len(used), 1), 2, 16))
    many = min(SAMPLES, context.total())
    try:
        some = list(context.samples.batches(few, few))
        board = Switchboard(model, regions, shapes, example=some[0])
        everything, good, bad = _errors(board, context.samples.batches(few, many), groups, context, "measuring losses")
        ones = [{k: settings[k]} for k in used]
        alone = _errors(board, some, ones, context, "measuring each quantizer")
        whole = _errors(board, some, [settings], context, "measuring losses")[0]
    except (UserError, RuntimeError):  # of onnxruntime: the model is inspected all the same
        return None
    each = {k: _share(e, whole[0]) for k, e in zip(used, alone, strict=True)}
    beyond = sorted((k for k in used if not can[k]), key=lambda k: (-(each[k].share or 0.0), k))
    total = everything[0]
    shares = [_share(e, total) for e in (everything, good, bad)]
    return Loss(many, shares[0], shares[1], shares[2], each, tuple(beyond))


def _errors(
    board: Switchboard,
    feeds: Iterable[Mapping[str, Array]],
    trials: Sequence[Mapping[int, Setting]],
    context: Context,
    what: str,
) -> list[tuple[float, float]]:
    """Squared error and squared signal of each trial."""
    noise, signal = [0.0] * len(trials), 0.0
    for feed in feeds:
        reference = board.run(feed, {}).astype(np.float64)
        signal += float((reference**2).sum())
        for n, settings in enumerate(trials):
            context.progress(what, n, len(trials))
            if settings:
                noise[n] += float(((board.run(feed, settings).astype(np.float64) - reference) ** 2).sum())
    context.progress(what, len(trials), len(trials))
    return [(e, signal) for e in noise]


def _share(error: tuple[float, float], whole: float) -> Share:
    noise, signal = error
    return Share(decibels(signal, noise), noise / whole if whole > 0 else None)
