"""How far two models' quantized activations lie apart, in steps, with rounding ties treated honestly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnx_ocs.model.nodes import Array

__all__ = ["FEW", "FLIPS", "SHIFT", "TIE_WINDOW", "Difference"]

TIE = 1e-5  # steps; a value this close to a tie, and as much more as float arithmetic is off by, is on it
TIE_WINDOW = 0.05  # steps; a value this close to a tie may flip through the order of float sums or a rounded bias
RARE = 2.0**-25  # share of values that may flip further from one: what a softmax of large numbers makes of float sums
FLIPS = 1e-3  # share of values that may flip near a tie (those exactly on a tie are not counted)
FEW = 3  # values that may differ whatever their share (tiny models)
SHIFT = 5e-4  # largest mean signed difference, in steps: more is a systematic shift


@dataclass
class Difference:
    """Differences between two models' quantized activations, accumulated over tensors and batches.

    Attributes:
        values: number of integers compared.
        mismatches: how many differ.
        off_tie: how many differ although the exact value is no rounding tie.
        max_steps: largest difference in quantization steps.
        shift: sum of signed differences, in steps, exact ties left out.
        max_abs: largest difference of a float graph output.
        outputs: by name, the largest difference of a float graph output, and its largest absolute value.
        worst: name of the tensor with the largest difference.
        ties: how many of the mismatches lie exactly on a rounding tie.
        allowed: how many values may flip near a tie.
    """

    values: int = 0
    mismatches: int = 0
    off_tie: int = 0
    max_steps: int = 0
    shift: float = 0.0
    max_abs: float = 0.0
    outputs: dict[str, tuple[float, float]] = field(default_factory=dict)
    worst: str = ""
    ties: int = 0
    allowed: float = 0.0

    @property
    def strays(self) -> int:
        """How many values may differ by a step off any tie: none of those that all but the largest models have."""
        return int(self.values * RARE)

    @property
    def fraction(self) -> float:
        """Share of integers that differ."""
        return self.mismatches / self.values if self.values else 0.0

    @property
    def relative(self) -> float:
        """Largest difference of a float graph output, against the output's largest absolute value over all batches."""
        return max((gap / size if size else gap for gap, size in self.outputs.values()), default=0.0)

    def integers(self, name: str, a: Array, b: Array, exact: Array | None, noise: float = 0.0) -> None:
        """Compare two arrays of steps.

        Args:
            name: of the tensor.
            a: expected.
            b: found.
            exact: the value in steps before it was rounded, where it is known.
            noise: rounding unit of the float arithmetic, in steps, for the largest value.
        """
        self.values += a.size
        self.allowed += a.size * (FLIPS + min(4 * noise, 20 * FLIPS))
        if a.dtype == b.dtype and np.array_equal(a, b):
            return
        delta = b.astype(np.int64) - a.astype(np.int64)
        where = np.flatnonzero(delta)
        if not where.size:
            return
        d = delta.reshape(-1)[where]
        self.mismatches += where.size
        largest = int(np.abs(d).max())
        if largest > self.max_steps:
            self.max_steps, self.worst = largest, name
        tie = np.zeros(where.size, bool)
        if exact is not None:
            distance = np.abs(np.abs(exact.reshape(-1)[where] % 1.0) - 0.5)
            tie = distance < TIE + noise
            if 16 * noise < TIE_WINDOW:  # finer steps than the float arithmetic in front of them resolves have no ties
                self.off_tie += int(np.sum((distance > TIE_WINDOW + 16 * noise) & (np.abs(d) == 1)))
        self.ties += int(tie.sum())
        self.shift += float(d[~tie].sum())

    def floats(self, name: str, a: Array | list[Array], b: Array | list[Array]) -> None:
        """Compare a float graph output; of a sequence each of its tensors."""
        if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            for k, (x, y) in enumerate(zip(a, b, strict=True)):
                self.floats(f"{name}[{k}]", x, y)
            return
        if isinstance(a, list) or isinstance(b, list) or a.shape != b.shape:
            self.max_abs = float("inf")
            self.outputs[name] = float("inf"), 0.0
            self.worst = name
            return
        if a.size and a.dtype.kind == "f":
            exact, found = a.astype(np.float64), b.astype(np.float64)
            apart = (exact != found) & ~(np.isnan(exact) & np.isnan(found))
            gaps = np.abs(exact[apart] - found[apart])  # what is the same and infinite has no difference
            gap = float(np.max(np.where(np.isnan(gaps), np.inf, gaps), initial=0.0))
            size = float(np.max(np.abs(exact), where=np.isfinite(exact), initial=0.0))
            largest = self.outputs.get(name, (0.0, 0.0))
            self.outputs[name] = max(largest[0], gap), max(largest[1], size)
            self.max_abs = max(self.max_abs, gap)
        elif a.size:
            self.integers(name, a, b, None)

    def as_dict(self, level: str) -> dict[str, Any]:
        """One entry of the report's `verification.levels`."""
        return {
            "level": level,
            "max_abs": self.max_abs,
            "max_steps": self.max_steps,
            "mismatch_fraction": self.fraction,
            "mismatches_exactly_on_ties": self.ties,
            "mean_shift_steps": self.shift / self.values if self.values else 0.0,
            "values": self.values,
            "worst": self.worst,
        }
