"""The batches of a fit in parts of a few samples, so that what layers leave behind stays little.

Sums are a batch's: the rows of its parts are put together again.  So the parts change no number, as far as a model
computes a sample alike whatever others come with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx

from onnx_ocs.calibration.feed import parts_of, samples_in
from onnx_ocs.calibration.labels import cut
from onnx_ocs.model.nodes import Array

__all__ = ["Part", "divisible", "parted"]

Feed = Mapping[str, Array]
FEW = 2, 3  # samples by which it is seen whether rows are samples
LITTLE = 1 << 26  # bytes that a batch may leave behind: parts of a small model cost more time than they save memory


@dataclass(frozen=True, eq=False)
class Part:
    """Some samples of a batch.

    Attributes:
        batch: number of the batch.
        first: how many samples came before.
        feed: what the model is fed.
        weights: how much its rows count; None: all alike.
    """

    batch: int
    first: int
    feed: Feed
    weights: Array | None


def divisible(model: onnx.ModelProto, feed: Feed, run: Callable[[Feed], Mapping[tuple[bool, str], Array]]) -> bool:
    """Whether batches are parted: they leave much behind, and of every tensor the first axis grows as the samples do.

    Args:
        model: what takes the samples.
        feed: a batch.
        run: gives the tensors.
    """
    size = samples_in(feed)
    if size <= max(FEW) or len(list(parts_of(model, feed))) < 2:
        return False
    few, more = ({k: (v.shape, v.nbytes) for k, v in run(cut(feed, slice(n), size)).items()} for n in FEW)
    if sum(nbytes for _, nbytes in few.values()) * size < LITTLE * FEW[0]:
        return False
    return all(_grows(few[k][0], more[k][0]) for k in few)


def _grows(few: tuple[int, ...], more: tuple[int, ...]) -> bool:
    return len(few) > 0 and few[0] * FEW[1] == more[0] * FEW[0] and few[1:] == more[1:]


def parted(
    model: onnx.ModelProto, feeds: Iterable[Feed], parts: bool, weights: Callable[[Feed], Array | None]
) -> Iterator[Part]:
    """All samples, part by part.

    Args:
        model: what takes them.
        feeds: batch by batch.
        parts: whether batches are parted; else each is one part.
        weights: gives how much the rows of a batch count.
    """
    before = 0
    for batch, feed in enumerate(feeds):
        size, weigh = samples_in(feed), weights(feed)
        for first, part in parts_of(model, feed) if parts else ((0, feed),):
            mine = weigh
            if weigh is not None and samples_in(part) < size:
                mine = weigh[first : first + samples_in(part)]
            yield Part(batch, before + first, part, mine)
        before += size
