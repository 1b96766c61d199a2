"""Which layers keep their new values: asked of the model's outputs, on samples that no fit has seen.

Those that are held out may be too few to tell what harms.  So where layers would be taken back, or nothing is sure,
all are fitted again, with other samples held out in turn, and these are asked together: each is given to the model
whose fit has not seen it.  What stays is decided for all fits at once, and the first one's values are written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.feed import samples_in
from onnx_ocs.calibration.labels import cut
from onnx_ocs.measurement.gate import Choice, Judge, choose
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.nodes import Array
from onnx_ocs.passmanager import Pass
from onnx_ocs.reconstruction.find import find_maps, sharing
from onnx_ocs.reconstruction.folds import TURNS, Fold, fold
from onnx_ocs.reconstruction.large import is_large
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.reconstruction.tasks import Fitted
from onnx_ocs.reconstruction.write import write_all
from onnx_ocs.records.history import stamp

__all__ = ["Feeds", "Judged", "judged", "written"]

JUDGED = 64  # most samples on which a fit is judged
FEEDS = 8  # and of so many feeds at least, where a model has a large fixed batch
Feed = Mapping[str, Array]
Feeds = Callable[[], Iterator[Feed]]


class Judged(NamedTuple):
    """What became of the layers.

    Attributes:
        fitted: all of them.
        kept: numbers of those that keep what was fitted.
        sure: whether the model is better for these by more than chance, on samples that no fit has seen.
    """

    fitted: Sequence[Fitted]
    kept: set[int]
    sure: bool = False


def judged(
    model: onnx.ModelProto,
    fit: Callable[[int], Sequence[Fitted]],
    truth: onnx.ModelProto | None,
    mask: Callable[[Feed], Array | None],
    feeds: Feeds,
    unit: int,
    context: Context,
    by: Pass,
) -> Judged:
    """Fit all layers, and see which of them keep their new values.

    Args:
        model: as it was before.
        fit: fits all layers; the samples that are held out in this turn are not seen (`fold`).
        truth: the float model, or what stands for it; without one nothing is kept.
        mask: gives which rows count.
        feeds: gives the samples, batch by batch, each time it is called.
        unit: how many samples always come together.
        context: says how many samples there are, what outputs count, and is told of progress.
        by: the pass that is named in the file.
    """
    first = fit(0)
    units = [u for u in sharing([f.layer for f in first]) if first[u[0]].values is not None]
    if not units or truth is None:
        return Judged(first, set())
    total, fits = context.total(), [first]

    def chosen() -> Choice:
        held = list(_held(feeds(), total, unit, len(fits)))
        turns = [turn for turn, _ in held]
        judge = Judge(truth, model, lambda: [f for _, f in held], mask, context.judging, turns)
        context.progress("judging layers", 0, None)

        def losses(some: frozenset[int]) -> tuple[Array, float]:
            kept = {i for k in some for i in units[k]}
            return judge.losses(*(written(model, f, kept, by) for f in fits))

        return choose(len(units), losses, judge.yardstick.weights, judge.yardstick.slack())

    choice = chosen()
    told = choice.sure and len(choice.kept) == len(units)
    if not told and not any(is_large(f.layer) for f in first):  # these take minutes each
        fits += [fit(turn) for turn in range(1, TURNS)]
        choice = chosen()
    return Judged(first, {i for k in choice.kept for i in units[k]}, choice.sure)


def written(model: onnx.ModelProto, fitted: Sequence[Fitted], kept: Collection[int], by: Pass) -> onnx.ModelProto:
    """A copy of the model with the new values of some layers."""
    new = onnx.ModelProto()
    new.CopyFrom(model)
    graph = EditableGraph(new)
    layers = [f for f in find_maps(graph) if isinstance(f, LinearMap)]
    pairs = enumerate(zip(layers, fitted, strict=True))
    write_all(graph, ((x, f.values) for k, (x, f) in pairs if k in kept and f.values is not None))
    graph.commit(lambda node: stamp(node, by.name, by.version))
    return new


def _held(feeds: Iterable[Feed], total: int, unit: int, turns: int) -> Iterator[tuple[int, Feed]]:
    """The samples that the fits of these turns have not seen, as few at a time as the model takes, with the turn."""
    first, given = 0, 0  # samples so far, and feeds
    for feed in feeds:
        size = samples_in(feed)
        numbers = first + np.arange(size)
        judges = np.asarray([fold(numbers, total, unit, turn) == Fold.JUDGE for turn in range(turns)])
        first += size
        for k in range(0, size, unit):
            for turn in np.flatnonzero(judges[:, k]).tolist():
                if given < max(JUDGED // unit, FEEDS) * turns:
                    given += 1
                    yield turn, cut(feed, slice(k, k + unit), size)
