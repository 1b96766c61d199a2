"""Histograms compared: with a plain count in numpy, and with one another."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnx_ocs.calibration.histogram import BINS, Histogram

Array = np.ndarray[Any, Any]


def check(h: Histogram, a: Array) -> None:
    """The same numbers by numpy: each channel's values that are finite and not zero, by searching the edges."""
    a = np.asarray(a, np.float32).astype(np.float64)
    top = 2.0**h.exponent if h.exponent is not None else 1.0
    edges = np.linspace(-top if h.signed else 0.0, top, BINS + 1)
    assert np.array_equal(h.edges, edges[:-1])
    assert h.counts.shape == (len(a), BINS) and h.counts.dtype.kind == "u"
    for c, row in enumerate(a):
        row = row[np.isfinite(row)]
        kept = row if h.signed else np.maximum(row, 0)
        assert np.all(np.abs(kept) < top)
        assert h.zeros[c] == np.sum(kept == 0)
        inside = kept[kept != 0]
        assert np.array_equal(h.counts[c], np.histogram(inside, edges)[0]), c
        assert h.total[c] == kept.size
    finite = a[np.isfinite(a)]
    if finite.size:
        assert (h.low, h.high) == (finite.min(), finite.max())


def same(a: Histogram, b: Histogram) -> None:
    assert (a.exponent, a.signed, a.low, a.high) == (b.exponent, b.signed, b.low, b.high)
    assert np.array_equal(a.counts, b.counts) and np.array_equal(a.zeros, b.zeros)
