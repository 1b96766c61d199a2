"""What the reference shows of tensors on samples: feeds to learn from, feeds to judge on, and extremes of channels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx

from onnx_ocs.calibration.samples import Samples
from onnx_ocs.calibration.stream import samples_in
from onnx_ocs.errors import UserError, first_line
from onnx_ocs.model.nodes import Array
from onnx_ocs.regridding.grids import Extremes
from onnx_ocs.runtime.instrument import expose
from onnx_ocs.runtime.session import RUN_ERRORS, Session, as_written

__all__ = ["extremes", "halves"]

SAMPLES = 32  # most that are looked at


def halves(samples: Samples, limit: int | None) -> tuple[Samples, Samples, Samples]:
    """The first samples: all, those to learn from, and those to judge on (all are both where there is but one feed)."""
    feeds = list(samples.batches(1, min(SAMPLES, samples.count(limit))))
    if len(feeds) == 1:
        return (_of(feeds),) * 3
    return _of(feeds), _of(feeds[0::2]), _of(feeds[1::2])


def _of(feeds: Sequence[dict[str, Array]]) -> Samples:
    def read(_size: int, _limit: int) -> Iterator[tuple[int, dict[str, Array]]]:
        yield from ((samples_in(f), dict(f)) for f in feeds)

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
    session = as_written(expose(truth, tensors))
    wanted = [t for t in dict.fromkeys(tensors) if t in session.outputs]
    found: dict[str, Extremes] = {}
    for feed in samples.batches(1):
        for t, value in _run(session, feed, wanted).items():
            if value.dtype.kind == "f" and value.ndim and value.size:
                low, high = _along(value.astype(np.float64))
                found[t] = found[t].joined(low, high) if t in found else Extremes(low, high)
    return found


def _run(session: Session, feed: Mapping[str, Array], wanted: Sequence[str]) -> dict[str, Array]:
    try:
        return session.run(feed, wanted)
    except RUN_ERRORS as e:
        raise UserError(f"onnxruntime does not run the model on these samples: {first_line(e)}") from None


def _along(value: Array) -> tuple[Array, Array]:
    """Extremes of the channels of one feed."""
    axis = min({1, value.ndim - 1} if value.ndim > 1 else {0}, key=lambda a: (value.shape[a], a))
    others = tuple(k for k in range(value.ndim) if k != axis)
    return np.asarray(value.min(others)), np.asarray(value.max(others))
