"""Streaming statistics of activations: per-channel histograms, taken in front of the quantizers.

One pass over the samples; memory does not depend on their number.  A histogram's range is a power of two and doubles
when a value falls outside (neighbouring bins merge), so histograms of different samples can be added up exactly.
Zeros are counted apart: behind a ReLU they are most of the values, and no quantizer errs on them.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from onnx_ocs import tensors
from onnx_ocs.errors import UserError
from onnx_ocs.graph import Array
from onnx_ocs.region import Region

__all__ = ["Histogram", "Statistics", "fingerprint", "smoothed"]

BINS = 1024
BLOCK = 1 << 18  # values that are counted at a time
SAMPLED = 1 << 16  # values of one tensor that enter its histogram, per sample: more only cost time
ROWS = 32  # channels that are smoothed at a time, so that they stay in the cache
FEW = 32  # neighbouring values of one channel below which a tensor is transposed first


class Histogram:
    """Counts of one tensor's values per channel.

    Attributes:
        counts: int64 (C, BINS), over [-range, range) for signed tensors, [0, range) for others.
        zeros: int64 (C,), values that are exactly 0 (not in `counts`).
        exponent: the range is 2 ** exponent.
        signed: whether negative values are counted.
        low: smallest value seen; it may lie outside the sampled ones.
        high: largest value seen.
    """

    def __init__(self, channels: int, signed: bool) -> None:
        """Start empty."""
        self.counts = np.zeros((channels, BINS), np.int64)
        self.zeros = np.zeros(channels, np.int64)
        self.exponent: int | None = None
        self.signed = signed
        self.low, self.high = math.inf, -math.inf

    def _grow(self, size: float) -> None:
        """Double the range until `size` lies inside."""
        needed = math.frexp(max(size, 1e-30))[1]
        if self.exponent is None:
            self.exponent = needed
        while self.exponent < needed:
            merged = self.counts.reshape(len(self.counts), BINS // 2, 2).sum(2)
            start = BINS // 4 if self.signed else 0
            self.counts[:] = 0
            self.counts[:, start : start + BINS // 2] = merged
            self.exponent += 1

    def add(self, a: Array) -> None:
        """Count float32 values, shape (C, n) or (B, C, n); values that are not finite are left out."""
        if not a.size:
            return
        a = a.reshape(-1, *a.shape[-2:])
        low, high = float(a.min()), float(a.max())
        lost: Array | int = 0
        if not (math.isfinite(low) and math.isfinite(high)):
            finite = np.isfinite(a)
            if not finite.any():
                return
            low, high = float(a[finite].min()), float(a[finite].max())
            a, lost = np.where(finite, a, np.zeros((), a.dtype)), (~finite).sum((0, 2))
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._grow(max(abs(low) if self.signed else 0.0, abs(high)))
        _, channels, n = a.shape
        rows, width = max(1, BLOCK // (channels * n)), max(1, BLOCK // n)
        for r in range(0, len(a), rows):
            for c in range(0, channels, width):
                self._count(a[r : r + rows, c : c + width], slice(c, c + width))
        self.zeros -= lost

    def _count(self, a: Array, channels: slice) -> None:
        """Count finite values that lie in the range; few at a time, so that they stay in the cache."""
        assert self.exponent is not None
        zeros = np.count_nonzero(a == 0 if self.signed else a <= 0, axis=(0, 2))
        position = a * np.float32(BINS / 2.0 ** (self.exponent + (1 if self.signed else 0)))
        if self.signed:
            np.floor(position, out=position)
            position += BINS // 2
        elif self.low < 0:
            np.maximum(position, 0, out=position)
        index = position.astype(np.intp)
        index += (np.arange(a.shape[1]) * BINS)[:, None]
        np.add.at(self.counts[channels].reshape(-1), index.ravel(), 1)
        self.counts[channels, BINS // 2 if self.signed else 0] -= zeros
        self.zeros[channels] += zeros

    def merge(self, other: Histogram) -> None:
        """Add another histogram of the same tensor."""
        if other.exponent is None:
            return
        self._grow(2.0 ** (other.exponent - 1))
        assert self.exponent is not None
        copy = Histogram(len(other.counts), other.signed)
        copy.counts, copy.exponent = other.counts.copy(), other.exponent
        copy._grow(2.0 ** (self.exponent - 1))
        self.counts += copy.counts
        self.zeros += other.zeros
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    @property
    def edges(self) -> Array:
        """Lower edges of the bins, float64 (BINS,), and the width is the difference of two."""
        top = 2.0 ** (self.exponent if self.exponent is not None else 0)
        return np.linspace(-top, top, BINS + 1)[:-1] if self.signed else np.linspace(0, top, BINS + 1)[:-1]

    @property
    def total(self) -> Array:
        """Number of values of every channel, int64 (C,)."""
        return np.asarray(self.counts.sum(1) + self.zeros)


def smoothed(h: Histogram, samples: int) -> Array:
    """Counts as more samples would show them: no channel's largest value so far is the largest there is.

    To every channel one sample's share of the distribution that all channels have in common is added, each in units
    of its own root mean square: the others tell how far a channel may go beyond what it has shown.  The fewer the
    samples, the more that counts.

    Args:
        h: the histogram.
        samples: from how many samples it is.

    Returns:
        float64 (C, BINS).
    """
    counts, total = h.counts.astype(np.float64), np.maximum(h.total, 1).astype(np.float64)
    edges = h.edges
    width = edges[1] - edges[0]
    middle = edges + width / 2
    rms = np.sqrt((counts @ (middle * middle)) / total)
    alive = rms > 0
    if not alive.any() or samples < 1:
        return counts
    # units of the root mean square, finer near zero: u = sinh(t), in even steps of t
    top = float(np.arcsinh(np.abs(middle).max() / rms[alive].min()))

    def place(v: Array, r: Array) -> Array:
        u = v / r
        np.arcsinh(u, out=u)
        u += top
        u *= BINS / top
        return np.asarray(u)

    of = np.flatnonzero(alive)
    blocks = [of[k : k + ROWS] for k in range(0, len(of), ROWS)]
    pooled = np.zeros(2 * BINS + 1)
    for rows in blocks:
        which, bins = np.nonzero(counts[rows])
        which = rows[which]
        share = counts[which, bins] / (total * len(of))[which]
        np.add.at(pooled, place(middle[bins], rms[which]).astype(np.intp), share)
    below = np.concatenate([[0.0], np.cumsum(pooled)[:-1]])
    slope = np.diff(below)
    outer = np.append(edges, edges[-1] + width)
    for rows in blocks:
        ends = place(outer, rms[rows, None])
        np.clip(ends, 0, 2 * BINS, out=ends)
        first = np.minimum(ends.astype(np.intp), 2 * BINS - 1)
        ends -= first
        ends *= slope[first]
        ends += below[first]
        # what lies outside, at the ends
        ends[:, -1], ends[:, 0] = below[-1] + pooled[-1], 0.0 if h.signed else ends[:, 0]
        more = np.diff(ends, axis=1)
        more *= total[rows, None] / samples
        counts[rows] += more
    return counts


def fingerprint(model: onnx.ModelProto) -> str:
    """A hash of the model and its side files, wherever they lie; statistics and plans are tied to it."""
    digest = hashlib.sha256()
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    large = tensors.exceeds(bare, 1 << 31)
    for t in tensors.all_tensors(bare):
        if tensors.is_external(t):
            for block in tensors.blocks(t):
                digest.update(block)
            del t.external_data[:]
        elif large and t.HasField("raw_data"):
            digest.update(t.raw_data)
            t.ClearField("raw_data")
    digest.update(bare.SerializeToString(deterministic=True))
    return digest.hexdigest()


class Statistics:
    """Histograms of all regions' tensors, tied to one model.

    Batches count into two halves in turn: a plan that is made from one can be judged on samples of the other.

    Attributes:
        model_hash: `fingerprint` of the model.
        halves: histograms by index of the region, of the even and of the odd batches.
        counted: number of samples in each half.
    """

    def __init__(self, model_hash: str, regions: Sequence[Region], steps: Collection[int] = ()) -> None:
        """Start empty.

        Args:
            model_hash: `fingerprint` of the model.
            regions: its regions; those that a layer with a weight reads are counted by channel.
            steps: indices of others, whose step alone may change: all their channels are counted together.
        """
        self.model_hash = model_hash
        self.counted = [0, 0]
        self.halves: tuple[dict[int, Histogram], dict[int, Histogram]] = ({}, {})
        for k, r in enumerate(regions):
            if r.walk is not None and r.quantizer is not None and (r.walk.weights or k in steps):
                unsigned = r.bounds[0] >= 0 or r.quantizer.rectifies
                channels = r.walk.channels if r.walk.weights else 1
                for half in self.halves:
                    half[k] = Histogram(channels, not unsigned)

    @property
    def samples(self) -> int:
        """Number of samples seen."""
        return sum(self.counted)

    @property
    def regions(self) -> list[int]:
        """Indices of the regions that are counted."""
        return list(self.halves[0])

    @property
    def histograms(self) -> dict[int, Histogram]:
        """The histograms of all samples, by index of the region."""
        return {k: self.histogram(k, None) for k in self.regions}

    def part(self, half: int | None) -> int | None:
        """The half that is to be taken for a half: all samples (None) where the other one is empty."""
        return half if half is not None and self.counted[1 - half] else None

    def histogram(self, region: int, half: int | None) -> Histogram:
        """The histogram of a region, from one half of the samples (`part`) or from all."""
        if (part := self.part(half)) is not None:
            return self.halves[part][region]
        found = Histogram(len(self.halves[0][region].counts), self.halves[0][region].signed)
        for h in self.halves:
            found.merge(h[region])
        return found

    def add(self, regions: Sequence[Region], batch: Mapping[str, Array], turn: int) -> None:
        """Count batch number `turn` of float tensors by name (it varies which values of large tensors are sampled)."""
        first = next(iter(batch.values()), np.zeros(0))
        self.counted[turn % 2] += len(first) if first.ndim else 1
        for k, h in self.halves[turn % 2].items():
            r = regions[k]
            assert r.walk is not None
            a = np.asarray(batch[r.tensor])
            rows = len(a) if a.ndim else 1
            axis = r.walk.axis % a.ndim
            channels, inner = a.shape[axis], int(np.prod(a.shape[axis + 1 :], dtype=np.int64))
            if len(h.counts) == 1:
                channels, inner = 1, a.size
            stride = max(1, a.size // max(1, rows * SAMPLED))
            parts: Iterable[Array]
            if stride > 1:
                # every stride-th position of the other axes, an odd stride so that it does not follow rows
                stride |= 1
                h.low, h.high = min(h.low, float(a.min())), max(h.high, float(a.max()))
            if inner >= FEW:  # as it lies in memory
                blocks = a.reshape(-1, channels, inner)
                starts = [(turn - o * inner) % stride for o in range(len(blocks))]
                parts = [blocks] if stride == 1 else (b[:, s::stride] for b, s in zip(blocks, starts, strict=True))
            else:
                parts = [np.moveaxis(a, axis, 0).reshape(channels, -1)[:, turn % stride :: stride]]
            for part in parts:
                if np.isfinite(r.ceiling):
                    part = np.minimum(part, r.ceiling)
                h.add(part.astype(np.float32, copy=False))

    def merge(self, other: Statistics) -> None:
        """Add the statistics of other samples of the same model.

        Raises:
            UserError: they belong to another model.
        """
        if other.model_hash != self.model_hash:
            raise UserError("the statistics belong to another model: calibrate again")
        for part, counted in enumerate(other.counted):
            self.counted[part] += counted
            for k, h in other.halves[part].items():
                self.halves[part][k].merge(h)

    def save(self, path: str | Path) -> None:
        """Write an .npz (no pickles), atomically."""
        from onnx_ocs.io import write_bytes

        arrays: dict[str, Array] = {
            "model": np.frombuffer(self.model_hash.encode(), np.uint8),
            "samples": np.asarray(self.counted),
        }
        for part, half in enumerate(self.halves):
            for k, h in half.items():
                arrays[f"counts_{part}_{k}"] = h.counts
                arrays[f"zeros_{part}_{k}"] = h.zeros
                info = [-9999 if h.exponent is None else h.exponent, h.signed, h.low, h.high]
                arrays[f"info_{part}_{k}"] = np.asarray(info)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        write_bytes(path, buffer.getvalue())

    @staticmethod
    def load(path: str | Path, model_hash: str, regions: Sequence[Region]) -> Statistics:
        """Read statistics back.

        Raises:
            UserError: not such a file, or of another model.
        """
        try:
            with np.load(path, allow_pickle=False) as z:
                new = Statistics(model_hash, regions, [k for k in range(len(regions)) if f"counts_0_{k}" in z])
                if bytes(z["model"]).decode() != model_hash:
                    raise UserError(f"{path}: these statistics belong to another model: calibrate again")
                new.counted = [int(n) for n in z["samples"]]
                for part, k, h in ((p, k, h) for p, half in enumerate(new.halves) for k, h in half.items()):
                    counts, zeros = z[f"counts_{part}_{k}"], z[f"zeros_{part}_{k}"]
                    if (counts.shape, zeros.shape) != (h.counts.shape, h.zeros.shape) or counts.dtype.kind != "i":
                        raise UserError(f"{path}: the statistics of '{regions[k].tensor}' do not fit: calibrate again")
                    h.counts, h.zeros = counts.astype(np.int64), zeros.astype(np.int64)
                    exponent, signed, h.low, h.high = z[f"info_{part}_{k}"].tolist()
                    h.exponent, h.signed = None if exponent == -9999 else int(exponent), bool(signed)
        except UserError:
            raise
        except Exception as e:  # zip, key and value errors of a file that is something else
            raise UserError(f"{path}: not a statistics file of onnx_ocs ({type(e).__name__})") from None
        return new
