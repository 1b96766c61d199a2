"""Streaming statistics of activations: per-channel histograms, taken in front of the quantizers.

One pass over the samples; memory does not depend on their number.  A histogram's range is a power of two and doubles
when a value falls outside (neighbouring bins merge), so histograms of different samples can be added up exactly.
Zeros are counted apart: behind a ReLU they are most of the values, and no quantizer errs on them.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from onnx_ocs.calibration.feed import samples_in
from onnx_ocs.calibration.histogram import BINS, FEW, Histogram, compact
from onnx_ocs.calibration.origin import Origin
from onnx_ocs.calibration.reading import check_declared
from onnx_ocs.errors import UserError
from onnx_ocs.model.files import write_bytes
from onnx_ocs.model.nodes import Array
from onnx_ocs.regions.region import Quantized, Region

__all__ = ["SAMPLED", "Statistics"]

# what numpy and zip raise for a file that is something else
NO_STATISTICS = (OSError, EOFError, LookupError, TypeError, ValueError, RuntimeError, BadZipFile, zlib.error)
COUNTS = "counts_0_"  # how the names of arrays begin that there is one of for each region
NOTHING = -9999  # the exponent of a histogram that has seen nothing
SAMPLED = 1 << 16  # values of one tensor that enter its histogram, per sample: more only cost time


class Statistics:
    """Histograms of all regions' tensors, tied to one model.

    Batches count into two halves in turn: a plan that is made from one can be judged on samples of the other.

    Attributes:
        model_hash: `fingerprint` of the model.
        halves: histograms by index of the region, of the even and of the odd batches.
        counted: number of samples in each half.
        origin: which samples were counted, and how; None where nobody said.
    """

    def __init__(
        self, model_hash: str, regions: Sequence[Quantized], steps: Collection[int] = (), apart: bool = False
    ) -> None:
        """Start empty.

        Args:
            model_hash: `fingerprint` of the model.
            regions: its regions; those that a layer with a weight reads are counted by channel.
            steps: indices of others, whose step alone may change: all their channels are counted together.
            apart: whether these are counted by channel, too, where they could get copies that are folded back.
        """
        self.model_hash = model_hash
        self.origin: Origin | None = None
        self.counted = [0, 0]
        self.halves: tuple[dict[int, Histogram], dict[int, Histogram]] = ({}, {})
        for k, r in enumerate(regions):
            if isinstance(r, Region) and (r.walk.weights or k in steps):
                unsigned = r.bounds[0] >= 0 or r.quantizer.rectifies
                channels = r.walk.channels if r.walk.weights or (apart and r.fold_only) else 1
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

    def add(self, regions: Sequence[Quantized], batch: Mapping[str, Array], turn: int, first: int = 0) -> None:
        """Count batch number `turn`, or a part of it behind `first` samples, of float tensors by name.

        The numbers vary which values of large tensors are sampled, the same ones whatever the parts.
        """
        self.counted[turn % 2] += samples_in(batch)
        for k, h in self.halves[turn % 2].items():
            r = regions[k]
            assert isinstance(r, Region), "only regions are counted"
            a = np.asarray(batch[r.tensor])
            rows = len(a) if a.ndim else 1
            axis = r.walk.axis % a.ndim
            channels, inner = a.shape[axis], int(np.prod(a.shape[axis + 1 :], dtype=np.int64))
            if len(h.counts) == 1:
                channels, inner = 1, a.size
            before = first * a.size // (rows * channels)  # positions of a channel that other parts have
            stride = max(1, a.size // max(1, rows * SAMPLED))
            parts: Iterable[Array]
            if stride > 1:
                # every stride-th position of the other axes, an odd stride so that it does not follow rows
                stride |= 1
                h.low, h.high = min(h.low, float(a.min())), max(h.high, float(a.max()))
            if inner >= FEW:  # as it lies in memory
                blocks = a.reshape(-1, channels, inner)
                starts = [(turn - before - o * inner) % stride for o in range(len(blocks))]
                parts = [blocks] if stride == 1 else (b[:, s::stride] for b, s in zip(blocks, starts, strict=True))
            else:
                parts = [np.moveaxis(a, axis, 0).reshape(channels, -1)[:, (turn - before) % stride :: stride]]
            for part in parts:
                if np.isfinite(r.ceiling):
                    part = np.minimum(part, r.ceiling)
                h.add(part.astype(np.float32, copy=False))

    def only(self, steps: Collection[int], regions: Sequence[Quantized], apart: bool = False) -> Statistics:
        """Without the regions that no layer with a weight reads, but for some.

        Args:
            steps: those that stay.
            regions: all regions of the model.
            apart: whether these stay counted by channel, where they are; else all their channels together.
        """
        new = Statistics(self.model_hash, regions, [k for k in steps if k in self.halves[0]], apart)
        new.counted, new.origin = self.counted, self.origin
        for half, mine in zip(new.halves, self.halves, strict=True):
            half.update({k: mine[k] if apart or len(h.counts) > 1 else mine[k].together() for k, h in half.items()})
        return new

    def merge(self, other: Statistics, names: tuple[str, str] = ("these", "the others")) -> None:
        """Add the statistics of other samples of the same model.

        Args:
            other: the others; they stay as they are.
            names: what the user calls both.

        Raises:
            UserError: they do not belong together.
        """
        if other.model_hash != self.model_hash:
            raise UserError("the statistics belong to another model: calibrate again")
        if self.origin is not None and other.origin is not None:
            self.origin = self.origin.joined(other.origin, names)
        for part, counted in enumerate(other.counted):
            self.counted[part] += counted
            for k, h in other.halves[part].items():
                self.halves[part][k].merge(h)

    def to_bytes(self) -> bytes:
        """An .npz (no pickles); the same statistics give the same bytes."""
        arrays: dict[str, Array] = {
            "model": np.frombuffer(self.model_hash.encode(), np.uint8),
            "samples": np.asarray(self.counted),
        }
        if self.origin is not None:
            arrays["origin"] = np.frombuffer(self.origin.to_json().encode(), np.uint8)
        for part, half in enumerate(self.halves):
            for k, h in half.items():
                arrays[f"counts_{part}_{k}"] = compact(h.counts)
                arrays[f"zeros_{part}_{k}"] = compact(h.zeros)
                info = [NOTHING if h.exponent is None else h.exponent, h.signed, h.low, h.high]
                arrays[f"info_{part}_{k}"] = np.asarray(info)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    def save(self, path: str | Path) -> None:
        """Write them as a file, atomically."""
        write_bytes(path, self.to_bytes())

    @staticmethod
    def read(path: str | Path) -> Statistics:
        """Read statistics back, of whatever model they are.

        Raises:
            UserError: not such a file.
        """
        try:
            check_declared(Path(path))
            with np.load(path, allow_pickle=False) as z:
                new = Statistics(bytes(z["model"]).decode(), ())
                new.counted = [int(n) for n in z["samples"]]
                new.origin = Origin.from_json(bytes(z["origin"]).decode()) if "origin" in z else None
                for k in sorted(int(name.removeprefix(COUNTS)) for name in z if name.startswith(COUNTS)):
                    for part, half in enumerate(new.halves):
                        half[k] = _histogram(z[f"counts_{part}_{k}"], z[f"zeros_{part}_{k}"], z[f"info_{part}_{k}"])
        except NO_STATISTICS as e:
            raise UserError(f"{path}: not a statistics file of onnx_ocs ({type(e).__name__})") from None
        return new

    @staticmethod
    def load(path: str | Path, model_hash: str, regions: Sequence[Quantized]) -> Statistics:
        """Read statistics back.

        Raises:
            UserError: not such a file, or of another model.
        """
        new = Statistics.read(path)
        if new.model_hash != model_hash:
            raise UserError(f"{path}: these statistics belong to another model: calibrate again")
        folds = [k for k, r in enumerate(regions) if isinstance(r, Region) and r.fold_only and k in new.halves[0]]
        apart = any(len(new.halves[0][k].counts) > 1 for k in folds)
        empty = Statistics(model_hash, regions, new.regions, apart)
        if empty.halves[0].keys() - new.halves[0].keys():
            raise UserError(f"{path}: the statistics lack some of the model's tensors: calibrate again")
        for part, half in enumerate(new.halves):
            for k, h in half.items():
                like = empty.halves[part].get(k)
                if like is None or (h.counts.shape, h.signed) != (like.counts.shape, like.signed):
                    name = regions[k].tensor if k < len(regions) else f"number {k}"
                    raise UserError(f"{path}: the statistics of '{name}' do not fit: calibrate again")
        return new


def _histogram(counts: Array, zeros: Array, info: Array) -> Histogram:
    """One that was written.

    Raises:
        ValueError: it is none.
    """
    if counts.dtype.kind not in "iu" or counts.shape != (*zeros.shape, BINS):
        raise ValueError("no counts")
    exponent, signed, low, high = info.tolist()
    h = Histogram(0, bool(signed))
    h.put(counts)
    h.zeros = zeros.astype(np.int64)
    h.exponent, h.low, h.high = None if exponent == NOTHING else int(exponent), low, high
    return h
