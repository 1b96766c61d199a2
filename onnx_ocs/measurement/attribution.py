"""Where the loss comes from: what each quantized activation costs at the outputs when it alone is quantized.

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
from onnx_ocs.measurement.channels import decibels
from onnx_ocs.measurement.yardstick import Output, Yardstick, outputs_of
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
    """What some quantizers cost at the outputs, and at groups of their channels (`onnx_ocs.measurement.yardstick`).

    Attributes:
        sqnr_db: 10 log10(sum ref^2 / sum (ref - out)^2) with only these switched on, where it is least; None where
            nothing changes.
        share: their squared error, as a share of that of all quantizers together, the mean over the outputs; None where
            there is none.
    """

    sqnr_db: float | None
    share: float | None


@dataclass(frozen=True)
class Loss:
    """What the quantized activations cost at the model's outputs.

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
    if region.refusal is None or region.fold_only:
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
        outputs = _outputs(model, board, context)
        groups_at = _errors(board, outputs, context.samples.batches(few, many), groups, context, "measuring losses")
        ones = [{k: settings[k]} for k in used]
        alone = _errors(board, outputs, some, [*ones, settings], context, "measuring each quantizer")
    except (UserError, RuntimeError):  # of onnxruntime: the model is inspected all the same
        return None
    each = dict(zip(used, _shares(*alone, -1)[:-1], strict=True))
    beyond = sorted((k for k in used if not can[k]), key=lambda k: (-(each[k].share or 0.0), k))
    everything, good, bad = _shares(*groups_at, 0)
    return Loss(many, everything, good, bad, each, tuple(beyond))


def _outputs(model: onnx.ModelProto, board: Switchboard, context: Context) -> list[Output]:
    """The outputs that count and that a quantizer can change; the first one where there is none."""
    counted = [o for o in outputs_of(model, model, context.judging) if o.weight > 0]
    return [o for o in counted if o.name in board.reached] or counted[:1]


def _errors(
    board: Switchboard,
    outputs: Sequence[Output],
    feeds: Iterable[Mapping[str, Array]],
    trials: Sequence[Mapping[int, Setting]],
    context: Context,
    what: str,
) -> tuple[Yardstick, Array]:
    """What is wrong in each trial, (trials, parts)."""
    kept = list(feeds)
    yardstick = Yardstick(outputs, [board.run(f, {}) for f in kept])
    noise = np.zeros((len(trials), len(yardstick.parts)))
    for k, feed in enumerate(kept):
        for n, settings in enumerate(trials):
            context.progress(what, n, len(trials))
            if settings:
                noise[n] += yardstick.noise(k, board.run(feed, settings))
    context.progress(what, len(trials), len(trials))
    return yardstick, noise


def _shares(yardstick: Yardstick, noise: Array, whole: int) -> list[Share]:
    """What each trial costs, beside the one that holds all."""
    signal, all_of_it = yardstick.signal.sum(0), noise[whole]
    found = []
    for row in noise:
        pairs = zip(yardstick.parts, signal, row, strict=True)
        values = [decibels(float(s), float(n)) for p, s, n in pairs if not p.labels]
        at = all_of_it > 0
        share = float(np.average(row[at] / all_of_it[at], weights=yardstick.weights[at])) if at.any() else None
        found.append(Share(min((v for v in values if v is not None), default=None), share))
    return found
