"""What the reference shows of tensors on samples: feeds to learn from, feeds to judge on, and extremes of channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import onnx

from onnx_ocs.calibration.feed import samples_in
from onnx_ocs.calibration.samples import Samples
from onnx_ocs.errors import UserError, first_line
from onnx_ocs.measurement.channels import channel_axes
from onnx_ocs.model.nodes import Array
from onnx_ocs.regridding.grids import Extremes
from onnx_ocs.runtime.instrument import expose
from onnx_ocs.runtime.session import RUN_ERRORS, as_written

__all__ = ["extremes", "halves", "held_out", "seen_of", "tensors_of"]

SAMPLES = 32  # most that are looked at
VALUES = 1 << 13  # of a tensor, to choose a grid by


def halves(samples: Samples, limit: int | None) -> tuple[Samples, Samples, Samples]:
    """The first samples: all, those to learn from, and those to judge on (all are both where there is but one feed)."""
    feeds = list(samples.batches(1, min(SAMPLES, samples.count(limit))))
    if len(feeds) == 1:
        return (_of(feeds),) * 3
    return _of(feeds), _of(feeds[0::2]), _of(feeds[1::2])


def held_out(samples: Samples, limit: int | None, most: int) -> Samples:
    """Samples to judge on, more than those of `halves`, and none that is there to learn from."""
    total = samples.count(limit)
    feeds = list(samples.batches(1, min(2 * most, total)))
    return _of(feeds[1::2] if len(feeds) > 1 else feeds)


def _of(feeds: Sequence[dict[str, Array]]) -> Samples:
    def read(_size: int, _limit: int) -> Iterator[tuple[int, dict[str, Array]]]:
        yield from ((samples_in(f), f) for f in feeds)

    return Samples("calibration samples", read)


def extremes(truth: onnx.ModelProto, tensors: Iterable[str], samples: Samples) -> dict[str, Extremes]:
    """The smallest and largest value of every channel of float tensors.

    The channels lie along the second or the last axis, whichever is shorter, as those of outputs do.

    Args:
        truth: the model without activation quantizers.
        tensors: their names; what it does not compute is left out.
        samples: what to run on.

    Raises:
        UserError: the model does not run on the samples.
    """
    return seen_of(truth, tensors, samples, 0)[0]


def seen_of(
    truth: onnx.ModelProto, tensors: Iterable[str], samples: Samples, values: int = VALUES,
    as_counted: Callable[[str, Array], Array] | None = None,
) -> tuple[dict[str, Extremes], dict[str, Array]]:  # fmt: skip
    """Extremes, and some values of each tensor, evenly taken, at most so many, float64, in one pass.

    The arguments are those of `extremes`; `as_counted` says for what a tensor's values are taken.
    """
    ends: dict[str, Extremes] = {}
    parts: dict[str, list[Array]] = {}
    share = values // max(samples.count(), 1)
    for t, found in tensors_of(truth, tensors, samples):
        value = found if as_counted is None else as_counted(t, found)
        low, high = _along(value.astype(np.float64))
        ends[t] = ends[t].joined(low, high) if t in ends else Extremes(low, high)
        if values:
            flat = value.reshape(-1)
            parts.setdefault(t, []).append(flat[:: max(1, flat.size // max(share, 1))].astype(np.float64))
    return ends, {t: np.concatenate(p) for t, p in parts.items()}


def tensors_of(truth: onnx.ModelProto, tensors: Iterable[str], samples: Samples) -> Iterator[tuple[str, Array]]:
    """Float tensors that the model has, feed by feed.

    The arguments are those of `extremes`.
    """
    wanted = list(dict.fromkeys(tensors))
    session = as_written(expose(truth, wanted))
    computed = [t for t in wanted if t in session.outputs]
    for feed in samples.batches(1):
        try:
            got = {**{t: feed[t] for t in wanted if t in feed}, **session.run(feed, computed)}
        except RUN_ERRORS as e:
            raise UserError(f"onnxruntime does not run the model on these samples: {first_line(e)}") from None
        yield from ((t, v) for t, v in got.items() if v.dtype.kind == "f" and v.ndim and v.size)


def _along(value: Array) -> tuple[Array, Array]:
    """Extremes of the channels of one feed."""
    axis = next(iter(channel_axes(value.shape)), 0)
    others = tuple(k for k in range(value.ndim) if k != axis)
    return np.asarray(value.min(others)), np.asarray(value.max(others))
