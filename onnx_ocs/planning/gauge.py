"""What a plan makes of one feed, beside the reference: sums that whoever runs the plan makes, feed by feed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnx_ocs.measurement.yardstick import Part, noise_of
from onnx_ocs.model.nodes import Array

__all__ = ["Error", "Gauge", "scored"]


@dataclass(frozen=True, eq=False)
class Error:
    """What a plan makes of one feed: sums over its samples, of every part.

    Attributes:
        noise: squared errors, or labels that differ.
        divergence: of class scores, in nats.
        scored: samples with class scores.
    """

    noise: Array
    divergence: Array
    scored: Array


@dataclass(frozen=True, eq=False)
class Gauge:
    """What is compared of the outputs.

    Attributes:
        parts: what has an error of its own.
        scores: which of them are class scores whose divergence counts.
        truths: what the outputs are called in the reference, by their names in the model.
        floats: whether the reference is the float model; else the model without activation quantizers.
    """

    parts: tuple[Part, ...]
    scores: tuple[bool, ...]
    truths: Mapping[str, str]
    floats: bool

    def error(self, truth: Mapping[str, Array], outputs: Mapping[str, Array]) -> Error:
        """What is wrong with the outputs for one feed.

        Args:
            truth: the reference's outputs (`onnx_ocs.measurement.yardstick.truth_of`).
            outputs: the plan's.
        """
        divergence, samples = np.zeros((2, len(self.parts)))
        for n, part in enumerate(self.parts):
            if self.scores[n]:
                p, q = (_log_softmax(np.asarray(x[part.output], np.float64)) for x in (truth, outputs))
                divergence[n], samples[n] = float((np.exp(p) * (p - q)).sum()), len(p)
        return Error(noise_of(self.parts, truth, outputs), divergence, samples)


def scored(truth: Mapping[str, Array], part: Part) -> bool:
    """Whether a part is class scores: all of an output (samples, classes)."""
    value = truth[part.output]
    return part.channels is None and not part.labels and value.ndim == 2 and value.shape[1] > 1


def _log_softmax(x: Array) -> Array:
    if np.all(x >= 0) and np.allclose(x.sum(1), 1, atol=1e-2):  # the model ends in a Softmax already
        return np.asarray(np.log(np.maximum(x, 1e-9)))
    shifted = x - x.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))
