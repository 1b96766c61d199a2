"""One graph output of a model beside that of the reference: error, agreement, and channels that are dead.

What counts depends on what an output is, which the reference's values tell:

    labels    integers, booleans, text      the share of elements that are equal
    scores    (samples, classes), or        the share of places with the reference's largest class, and the error
              probabilities of a map
    values    everything else               the error: 10 log10(sum ref^2 / sum (ref - out)^2)

Integers that a QuantizeLinear writes are values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx

from onnx_ocs.errors import UserError
from onnx_ocs.measurement.channels import Channels, Group, channel_axes, decibels, noise_along
from onnx_ocs.measurement.distributions import LEAST, distribution_axis, in_logarithms, sums_to_one
from onnx_ocs.model.graph import tensor_outputs
from onnx_ocs.model.nodes import Array, is_op

__all__ = ["Kind", "OutputQuality", "OutputTally", "judged_outputs"]

Kind = Literal["values", "scores", "labels"]


@dataclass(frozen=True)
class OutputQuality:
    """Closeness of one output to the reference's.

    Attributes:
        name: of the graph output.
        kind: what its values are.
        sqnr_db: over all samples; None where nothing differs, and for labels.
        agreement: share of the reference's answers, 0..1; None for values.
        answers: number of answers: samples, or places of a map of scores or labels.
        groups: channels by their scale, where there are several scales.
        constant_channels: channels that never change on the samples, while the reference's do; a class whose
            probability hardly leaves 0 is no dead one.
        weight: how much it counts; 0: not at all.
        noise: squared error of each sample, of probabilities in logarithms (`onnx_ocs.measurement.distributions`); of
            each feed where samples cannot be told apart; none for labels.
    """

    name: str
    kind: Kind
    sqnr_db: float | None
    agreement: float | None = None
    answers: int = 0
    groups: tuple[Group, ...] = ()
    constant_channels: tuple[int, ...] = ()
    weight: float = 1.0
    noise: tuple[float, ...] = field(default=(), repr=False)


def judged_outputs(reference: onnx.ModelProto, model: onnx.ModelProto) -> list[tuple[str, str, bool]]:
    """Which outputs are compared: name in the model, name in the reference, whether its integers are values.

    Names decide; where the reference has other names and as many outputs, the order does.  The first output always
    has a partner.  Sequences and maps are not compared.
    """
    names, truths = tensor_outputs(model), tensor_outputs(reference)
    partners = {n: n for n in names if n in truths}
    if len(names) == len(truths) and not partners:
        partners = dict(zip(names, truths, strict=True))
    if names and truths:
        partners.setdefault(names[0], truths[0])
    quantized = {t for n in model.graph.node if is_op(n, "QuantizeLinear") for t in n.output}
    return [(n, partners[n], n in quantized) for n in names if n in partners]


class OutputTally:
    """Counts one output of several models beside the reference's, feed by feed."""

    def __init__(self, name: str, first: bool, quantized: bool, models: int, weight: float = 1.0) -> None:
        """Begin to count.

        Args:
            name: of the output.
            first: whether it is the model's first one, whose shape says whether the reference fits.
            quantized: whether its integers are values.
            models: number of models.
            weight: how much it counts.
        """
        self.name, self.first, self.quantized, self.weight = name, first, quantized, weight
        self.signal, self.answers = 0.0, 0
        self.noise, self.same = [0.0] * models, [0] * models
        self.by_sample: list[list[float]] = [[] for _ in range(models)]
        self.labels = False
        self.scores = True  # until a feed shows that they are none
        self.likely = True  # and no probabilities
        self.channels: list[Channels] | None = None

    def add(self, truth: Array, outputs: Sequence[Array], samples: int = 1) -> None:
        """Count one feed, of so many samples.

        Raises:
            UserError: the shape is not the reference's.
        """
        self.labels = truth.dtype.kind in "OSU" or (truth.dtype.kind in "iub" and not self.quantized)
        if self.labels:
            self.answers += truth.size
            for k, out in enumerate(outputs):
                if out.shape == truth.shape:  # another number of results is another answer
                    self.same[k] += int(np.sum(out == truth))
            return
        truth = truth.astype(np.float64)
        values = [o.astype(np.float64) if self._fits(truth, o) else None for o in outputs]
        self._add_values(truth, values, samples if truth.ndim and truth.shape[0] == samples else 1)

    def _add_values(self, truth: Array, values: Sequence[Array | None], samples: int) -> None:
        energy = float(np.square(truth[np.isfinite(truth)]).sum())
        self.signal += energy
        axis = self._classes(truth)
        self.scores = self.scores and axis is not None
        self.answers += 0 if axis is None else truth.size // truth.shape[axis]
        flat = truth.reshape(1, -1)
        likely = axis is not None and sums_to_one(truth, axis)
        self.likely = self.likely and likely
        for k, value in enumerate(values):
            if value is None:
                self.noise[k] += energy
                self.by_sample[k] += [energy / samples] * samples
                continue
            self.noise[k] += float(noise_along(flat, value.reshape(1, -1), 0)[0])
            exact, found = (in_logarithms(v) if likely else v for v in (truth, value))
            self.by_sample[k] += noise_along(exact.reshape(samples, -1), found.reshape(samples, -1), 0).tolist()
            if axis is not None:
                self.same[k] += int(np.sum(truth.argmax(axis) == value.argmax(axis)))
        if self.channels is None:
            self.channels = [Channels(a, len(values)) for a in channel_axes(truth.shape)]
        for c in self.channels:
            c.add(truth, values)

    def _fits(self, truth: Array, out: Array) -> bool:
        """Another number of results is a wrong answer; another shape is another model."""
        if out.shape == truth.shape:
            return True
        if self.first or truth.shape[1:] != out.shape[1:] or truth.ndim != out.ndim:
            which = "" if self.first else f" '{self.name}'"
            raise UserError(
                f"the float model's output{which} has the shape {truth.shape}, the quantized model's {out.shape}"
            )
        return False

    def _classes(self, truth: Array) -> int | None:
        """The axis of the classes; None where these are no scores."""
        if truth.ndim > 1 and truth.shape[1] > 1 and all(d == 1 for d in truth.shape[2:]):
            return 1
        return distribution_axis(truth) if self.scores and truth.ndim > 2 else None

    def still(self, model: int, channels: Sequence[int]) -> bool:
        """Whether one of these channels may be constant in one of the models, by the feeds so far."""
        return any(c.still(model, channels) for c in self.channels or [])

    def quality(self, model: int) -> OutputQuality:
        """What was found for one of the models."""
        if self.labels:
            agreement = self.same[model] / self.answers if self.answers else None
            return OutputQuality(self.name, "labels", None, agreement, self.answers, weight=self.weight)
        channels = self.channels or []
        scores = self.scores and self.answers > 0
        return OutputQuality(
            self.name,
            "scores" if scores else "values",
            decibels(self.signal, self.noise[model]),
            self.same[model] / self.answers if scores else None,
            self.answers if scores else 0,
            next((g for c in channels if (g := c.groups(model))), ()),
            next((d for c in channels if (d := c.constant(model, LEAST if self.likely else 0.0))), ()),
            self.weight,
            tuple(self.by_sample[model]),
        )
