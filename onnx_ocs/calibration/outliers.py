"""How much of each channel lies beyond what its quantizer can express.

The paper's criterion (OCS+, section 3): a channel's sensitivity is the sum of its activations in
[X_clip, 2 * X_clip].  Here it is kept per copy and side: `upper[c, i]` is the sum of a in
(i + 1) * X_clip .. (i + 2) * X_clip, which is what the (i + 1)-th copy of channel c would save.

Without calibration data it is *estimated*: mean and variance of every channel are propagated through the graph from
weights, biases and quantization parameters (Gaussian pre-activations, rectified moments, after Data-Free
Quantization, Nagel et al. 2019, section 4.2.1 and appendix C), and the mass is that of the Gaussian in the interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_ocs.model.nodes import Array
from onnx_ocs.regions.region import Quantized, Region

__all__ = ["Outliers", "measure"]


@dataclass(frozen=True, eq=False)
class Outliers:
    """Mass beyond the range of one quantizer.

    Attributes:
        upper: float64 (C, N), mass that the i-th upper copy of each channel would save.
        lower: float64 (C, N), the same on the lower side.
        measured: whether it comes from calibration data.
        share_clipped: share of the whole mass sum|a| that lies beyond the range (None when estimated).
        range_used: share of the integer range that the values reach (None when estimated).
    """

    upper: Array
    lower: Array
    measured: bool
    share_clipped: float | None = None
    range_used: float | None = None


def measure(regions: Sequence[Quantized], copies: int, batches: Iterable[Mapping[str, Array]]) -> dict[int, Outliers]:
    """Sum up the outliers' mass over batches of float activations; memory does not grow with the samples.

    Args:
        regions: quantized activations; those that are unreadable are passed over.
        copies: most copies a channel.
        batches: float tensors by name, as they stand in front of the quantizers.

    Returns:
        Index of the region -> its outliers.
    """
    used = {k: r for k, r in enumerate(regions) if isinstance(r, Region)}
    upper = {k: np.zeros((r.walk.channels, copies)) for k, r in used.items()}
    lower = {k: np.zeros_like(upper[k]) for k in used}
    total, beyond, ends = dict.fromkeys(used, 0.0), dict.fromkeys(used, 0.0), {k: [np.inf, -np.inf] for k in used}
    for batch in batches:
        for k, region in used.items():
            walk, q = region.walk, region.quantizer
            a = np.moveaxis(np.asarray(batch[region.tensor]), walk.axis, 0).reshape(walk.channels, -1)
            top, low = (np.broadcast_to(v, (walk.channels,))[:, None] for v in (q.x_clip, q.x_low))
            size = np.abs(a)
            total[k] += float(size.sum(dtype=np.float64))
            beyond[k] += float(size.sum(where=(a > top) | (a < -low), dtype=np.float64))
            if a.size:
                ends[k] = [min(ends[k][0], float((a + low).min())), max(ends[k][1], float((a - top).max()))]
            for side, bound, values in ((upper[k], top, a), (lower[k], low, -a)):
                if np.any(values > bound):
                    for i in range(copies):
                        inside = (values > (i + 1) * bound) & (values <= (i + 2) * bound)
                        side[:, i] += values.sum(axis=1, where=inside, dtype=np.float64)
    result = {}
    for k, region in used.items():
        span = float((region.quantizer.x_clip + region.quantizer.x_low).max())
        reach = min(1.0, max(0.0, (span + min(ends[k][1], 0.0) - max(ends[k][0], 0.0)) / span))
        share = beyond[k] / total[k] if total[k] else 0.0
        result[k] = Outliers(upper[k], lower[k], True, share, reach)
    return result
