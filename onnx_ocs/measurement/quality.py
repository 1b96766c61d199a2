"""How close a model's outputs are to those of the float model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_ocs.calibration.samples import Samples
from onnx_ocs.errors import UserError, first_line
from onnx_ocs.model.nodes import Array
from onnx_ocs.runtime.session import as_written
from onnx_ocs.runtime.threads import CORES, in_order, share

__all__ = ["Quality", "compare", "decibels"]

TOGETHER = 2  # samples of a run: what layers leave behind stays in the caches
AT_ONCE = 4  # most runs side by side, for the sake of memory


def decibels(signal: float, noise: float) -> float | None:
    """10 log10(signal / noise) of two sums of squares; None where there is no noise, or no signal."""
    return float(10 * np.log10(signal / noise)) if noise > 0 and signal > 0 else None


@dataclass(frozen=True)
class Quality:
    """Closeness of a model's first output to the reference's.

    Attributes:
        sqnr_db: 10 log10(sum ref^2 / sum (ref - out)^2) over all samples; None where it is infinite.
        agreement: share of samples with the reference's argmax (over the last axis of a score vector), 0..1; None
            where the output is no vector of scores.
        samples: number of samples.
    """

    sqnr_db: float | None
    agreement: float | None
    samples: int


def compare(
    reference: onnx.ModelProto,
    models: Sequence[onnx.ModelProto],
    samples: Samples,
    limit: int | None = None,
    tick: Callable[[int], None] | None = None,
) -> list[Quality]:
    """Run models beside a reference, Q/DQ as written (no integer fusion).

    Args:
        reference: the float model.
        models: what to compare with it.
        samples: what to feed.
        limit: most samples.
        tick: called with the number of samples done.

    Raises:
        UserError: a model does not run on the samples, or their outputs do not match.
    """
    at_once = min(CORES, AT_ONCE)
    sessions = [as_written(m, share(at_once)) for m in (reference, *models)]
    signal = 0.0
    noise, same, count = [0.0] * len(models), [0] * len(models), 0
    scores = True

    def run(feed: Mapping[str, Array]) -> list[Array]:
        try:
            return [np.asarray(next(iter(s.run(feed).values()))).astype(np.float64) for s in sessions]
        except Exception as e:
            raise UserError(f"onnxruntime does not run the model on these samples: {first_line(e)}") from None

    for outputs in in_order(run, samples.batches(TOGETHER, limit), at_once):
        ref = outputs[0]
        if any(o.shape != ref.shape for o in outputs):
            raise UserError(
                f"the float model's output has the shape {ref.shape}, the quantized model's {outputs[1].shape}"
            )
        n = len(ref) if ref.ndim else 1
        count += n
        signal += float((ref**2).sum())
        scores = scores and ref.ndim >= 2 and ref.size // n > 1
        for k, out in enumerate(outputs[1:]):
            noise[k] += float(((ref - out) ** 2).sum())
            if scores:
                same[k] += int(np.sum(ref.reshape(n, -1).argmax(1) == out.reshape(n, -1).argmax(1)))
        if tick:
            tick(n)
    return [
        Quality(
            decibels(signal, e),
            s / count if scores and count else None,
            count,
        )
        for e, s in zip(noise, same, strict=True)
    ]
