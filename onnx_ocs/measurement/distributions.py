"""Outputs that are probabilities, and how they are compared where something is to be learnt from single samples.

Where a softmax is sure, its values hardly move, whatever the layers before it do; where it is not, they move far.  So
the squared error of probabilities lies in the few samples that are near to turning over, and whether these gain or lose
is chance.  In logarithms each sample tells about as much as any other.
"""

from __future__ import annotations

import numpy as np

from onnx_ocs.model.nodes import Array

__all__ = ["WHOLE", "in_logarithms", "sums_to_one"]

WHOLE = 1e-3  # how far a sum of probabilities may be from 1
LEAST = 1e-3  # probabilities far below are alike


def sums_to_one(value: Array, axis: int) -> bool:
    """Whether values are probabilities of classes along an axis."""
    if value.ndim < 2 or value.shape[axis] < 2 or not value.size or value.dtype.kind != "f":
        return False
    return bool(value.min() >= 0 and np.all(np.abs(value.sum(axis, dtype=np.float64) - 1) < WHOLE))


def in_logarithms(value: Array) -> Array:
    """Probabilities p as log(p + 0.001), float64."""
    return np.asarray(np.log(np.maximum(value, 0).astype(np.float64) + LEAST))
