"""What a model is fed at once, and how many samples that is, as the user counts them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import onnx

from onnx_ocs.model.nodes import Array
from onnx_ocs.runtime.threads import slices

__all__ = ["Feed", "one_sample", "parts_of", "rows_are_samples", "samples_in", "together"]

_Labels = Mapping[str, Array]
NOTHING: _Labels = MappingProxyType({})


class Feed(dict[str, Array]):
    """Arrays by input name, how many samples they are, and what else the source has for these.

    Attributes:
        samples: how many; the first axis says so where it is the batch, not where a sample has an axis of its own in
            front, such as windows.
        labels: arrays by name, samples on the first axis.
    """

    def __init__(self, arrays: Mapping[str, Array], samples: int | None = None, labels: _Labels = NOTHING) -> None:
        """Arrays of so many samples; default: as many as the first axis has."""
        super().__init__(arrays)
        self.samples = _rows(arrays) if samples is None else samples
        self.labels = dict(labels)


def samples_in(feed: Mapping[str, Array]) -> int:
    """How many samples a feed holds; where it does not know, its first axis says so."""
    return feed.samples if isinstance(feed, Feed) else _rows(feed)


def _rows(arrays: Mapping[str, Array]) -> int:
    return next((len(a) for a in arrays.values() if a.ndim), 1)


def rows_are_samples(model: onnx.ModelProto) -> bool:
    """Whether the first axis of the inputs is a batch: some output has as many rows, or may have."""
    constants = {t.name for t in model.graph.initializer}
    rows = {_first(i) for i in model.graph.input if i.name not in constants} - {None}
    outputs = [_first(o) for o in model.graph.output]
    return not rows or not outputs or any(o in (None, 0) or o in rows for o in outputs)


def _first(value: onnx.ValueInfoProto) -> int | None:
    """The first dimension: 0 where it is free, -1 for a single number, None where it is not known."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return int(tensor.shape.dim[0].dim_value) if tensor.shape.dim else -1


def together(model: onnx.ModelProto, feed: Mapping[str, Array]) -> int:
    """How many samples of a feed the model only takes at once: one, if what stands in front is a free batch."""
    count = samples_in(feed)
    free = {i.name for i in model.graph.input if _first(i) == 0} if count > 1 else set[str]()
    return 1 if all(a.ndim and len(a) == count for a in feed.values()) and free >= feed.keys() else count


def one_sample(model: onnx.ModelProto, feed: Mapping[str, Array]) -> dict[str, Array]:
    """The first sample of a feed, where the model takes it alone."""
    cut = samples_in(feed) > together(model, feed)
    return {k: a[:1] if cut else a for k, a in feed.items()}


def parts_of(model: onnx.ModelProto, feed: Mapping[str, Array]) -> Iterator[tuple[int, Feed]]:
    """A feed, a few samples at a time, each with the number of samples before it: what layers leave behind is little.

    The parts depend on the model and the feed alone (`onnx_ocs.runtime.threads.slices`); a feed that the model only
    takes whole is one part.
    """
    count = samples_in(feed)
    parts = slices(count)
    if len(parts) < 2 or together(model, feed) > 1 or not all(a.ndim and len(a) == count for a in feed.values()):
        yield 0, feed if isinstance(feed, Feed) else Feed(feed)
        return
    for part in parts:
        yield part.start, Feed({k: a[part] for k, a in feed.items()})
