"""How far outputs are from a reference's, part by part, for all that chooses: plans, gates, weights of tensors.

A part is a graph output, or a group of its channels whose scale is orders of magnitude below the strongest ones'
(`onnx_ocs.measurement.channels`).  Each has an error of its own:

    values    sum (ref - out)^2 / sum ref^2
    labels    share of the elements that differ

Several parts make one number by the geometric mean, weighted: a decibel counts the same wherever it is won.  Where one
part gets worse, the whole gets worse by as much, whatever the others win: no output pays for another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from onnx_ocs.calibration.judging import Judging
from onnx_ocs.errors import UserError
from onnx_ocs.measurement.channels import by_scale, channel_axes, noise_along, sums_along
from onnx_ocs.measurement.outputs import judged_outputs
from onnx_ocs.model.nodes import Array

__all__ = ["ALL", "ANSWERS", "OUTPUT_DB", "Output", "Part", "Yardstick", "noise_of", "outputs_of", "truth_of"]

ALL = slice(None)
OUTPUT_DB = 0.1  # what one of several outputs may lose where the others gain
ANSWERS = 0.005  # what the agreement of labels may lose, if it is more than one answer
LEAST = 1e-30
EXACT = 1e-10  # errors below are float arithmetic's: where there are several parts, they do not count
MOST_CHANNELS = 4096  # of an axis: a longer one is no axis of channels


@dataclass(frozen=True)
class Output:
    """A graph output that is compared.

    Attributes:
        name: in the model.
        truth: in the reference.
        quantized: whether its integers are values, since a QuantizeLinear writes them.
        weight: how much it counts; 0: not at all.
    """

    name: str
    truth: str
    quantized: bool = False
    weight: float = 1.0


def outputs_of(reference: onnx.ModelProto, model: onnx.ModelProto, judging: Judging) -> list[Output]:
    """The outputs of a model that have a counterpart in the reference, with what each of them counts.

    Raises:
        UserError: there is none that counts.
    """
    found = [Output(n, truth, q, judging.weight(n)) for n, truth, q in judged_outputs(reference, model)]
    if not any(o.weight > 0 for o in found):
        raise UserError("no output that counts is a tensor that the float model has, too: exclude others")
    return found


@dataclass(frozen=True, eq=False)
class Part:
    """What has an error of its own.

    Attributes:
        output: the graph output's name.
        labels: whether it is judged by agreement.
        weight: how much it counts; the parts of an output share its weight.
        axis: of the channels; None for a whole output.
        channels: which of them; None for a whole output.
    """

    output: str
    labels: bool
    weight: float
    axis: int | None = None
    channels: Array | None = field(default=None, repr=False)


class Yardstick:
    """A reference's outputs on some feeds, and how far others are from them.

    Attributes:
        parts: what has an error of its own.
        references: of every feed, by the outputs' names; float64, labels as they are.
        signal: sum of squares, or number of labels, (feeds, parts).
    """

    def __init__(self, outputs: Sequence[Output], references: Sequence[Mapping[str, Array]]) -> None:
        """Look at the reference, which alone decides on the parts.

        Args:
            outputs: what is compared; those of no weight are not.
            references: the reference's outputs for every feed, by their names in the model.
        """
        self.outputs = [o for o in outputs if o.weight > 0]
        labels = {o.name: _is_label(np.asarray(references[0][o.name]), o.quantized) for o in self.outputs}
        self.references = [_truth(labels, r) for r in references]
        found = {o.name: self._parts(o, labels[o.name]) for o in self.outputs}
        self.parts = tuple(p for parts in found.values() for p in parts)
        self.weights = np.asarray([p.weight for p in self.parts])
        signal = [[_signal(p, r[p.output]) for p in self.parts] for r in self.references]
        self.signal = np.asarray(signal).reshape(len(references), len(self.parts))
        self._labels = np.asarray([p.labels for p in self.parts], bool)

    def _parts(self, output: Output, labels: bool) -> list[Part]:
        """The output as a whole, which the strongest channels rule, and the other groups of its channels."""
        whole = Part(output.name, labels, output.weight)
        values = [r[output.name] for r in self.references]
        if labels or values[0].ndim < 3:  # a vector of class scores has one scale, whatever the classes' shares
            return [whole]
        for axis in channel_axes(values[0].shape):
            if values[0].shape[axis] > MOST_CHANNELS or len({v.shape[axis] for v in values if v.ndim > axis}) > 1:
                continue
            energy = np.asarray(sum(sums_along(_finite_squares(v), axis) for v in values))
            groups = [g for g in by_scale(energy) if int(energy.argmax()) not in g]
            if groups:
                share = output.weight / (1 + len(groups))
                return [Part(output.name, False, share), *(Part(output.name, False, share, axis, g) for g in groups)]
        return [whole]

    def noise(self, k: int, outputs: Mapping[str, Array]) -> Array:
        """What is wrong with the outputs for feed number k: squared errors, or labels that differ, (parts,)."""
        return noise_of(self.parts, self.references[k], outputs)

    def errors(self, noise: Array, feeds: slice = ALL) -> Array:
        """Errors of the parts, (parts,), of what was wrong with these feeds together."""
        signal = self._over_feeds(feeds)
        return np.where(self._labels, (noise + 1) / (signal + 1), noise / np.maximum(signal, LEAST))

    def _over_feeds(self, feeds: slice) -> Array:
        """The signal, added up feed by feed."""
        signal = np.zeros(len(self.parts))
        for row in self.signal[feeds]:
            signal = signal + row
        return signal

    def shares(self, noise: Array) -> Array:
        """What each feed contributes to the errors, (parts, feeds), of what was wrong with each, (feeds, parts)."""
        signal, rest = self.signal.sum(0), 1 / max(len(noise), 1)
        found = np.where(self._labels, (noise + rest) / (signal + 1), noise / np.maximum(signal, LEAST))
        return np.asarray(np.nan_to_num(found.T, nan=np.inf, posinf=np.inf))

    def slack(self, feeds: slice = ALL) -> Array:
        """What errors may rise by: what float arithmetic makes of values, a few answers of labels, (parts,)."""
        signal = self.signal[feeds].sum(0)
        return np.where(self._labels, np.maximum(ANSWERS * signal, 1) / (signal + 1), EXACT)

    def loss(self, errors: Array, start: Array, feeds: slice = ALL) -> float:
        """One number for all errors: their geometric mean; where a part is worse than at the start, the start's.

        Args:
            errors: of the parts, on some feeds.
            start: the same of the model as it was.
            feeds: which feeds these are.

        Returns:
            The mean of the start times the worst part's loss, where there is one.
        """
        if len(errors) == 1:
            return float(errors[0])
        beyond = np.isinf(errors) & np.isinf(start)  # the others are compared as if it were not there
        errors, start = (np.where(beyond, 1.0, e) for e in (errors, start))
        logs, before = (np.log(np.maximum(e, EXACT)) for e in (errors, start))
        allowed = np.log(start + self.slack(feeds)) + OUTPUT_DB * np.log(10) / 10
        worst = float((logs - allowed).max())
        mean = np.average(logs if worst <= 0 else before, weights=self.weights)
        return float(np.exp(mean + max(worst, 0.0)))

    def better(self, after: Array, before: Array) -> bool:
        """Whether errors are smaller on the whole, and no part pays for it."""
        return self.loss(after, before) < self.loss(before, before)

    def decibels(self, noise: Array, feeds: slice = ALL) -> float:
        """The mean SQNR of the parts, weighted, without labels; infinite where nothing is wrong."""
        values = np.flatnonzero(~self._labels & (noise > 0))
        signal = self._over_feeds(feeds)
        with np.errstate(divide="ignore"):  # an infinite error
            found = 10 * np.log10(np.maximum(signal[values], LEAST) / noise[values])
        if not values.size:
            return float(np.inf)
        return float(found[0]) if values.size == 1 else float(np.average(found, weights=self.weights[values]))

    def together(self, noise: Array) -> Array:
        """One number for each of several trials, (trials,), of what was wrong in them, (trials, parts).

        Of several parts each counts relative to all trials' errors at it: what a trial has to do with the geometric
        mean.
        """
        if noise.shape[1] == 1:
            return noise[:, 0]
        whole = noise.sum(0)
        with np.errstate(invalid="ignore"):
            shares = noise / np.where(whole > 0, whole, np.inf)
        shares[np.isinf(noise)] = 1.0
        return np.asarray((shares * self.weights).sum(1))


def truth_of(parts: Sequence[Part], reference: Mapping[str, Array]) -> dict[str, Array]:
    """A reference's outputs for one feed, as `noise_of` takes them: float64, labels as they are."""
    return _truth({p.output: p.labels for p in parts}, reference)


def noise_of(parts: Sequence[Part], truth: Mapping[str, Array], outputs: Mapping[str, Array]) -> Array:
    """What is wrong with the outputs for one feed: squared errors, or labels that differ, (parts,).

    Args:
        parts: what has an error of its own.
        truth: the reference's outputs (`truth_of`).
        outputs: others.
    """
    found, squares, last = [], np.zeros(0), ""
    for p in parts:
        exact, value = truth[p.output], np.asarray(outputs[p.output])
        if value.shape != exact.shape:  # another number of results is another answer
            found.append(_signal(p, exact))
        elif p.labels:
            found.append(float(np.sum(value != exact)))
        else:
            if p.output != last:
                squares, last = _squares(exact, value.astype(np.float64)), p.output
            found.append(_over(p, squares))
    return np.asarray(found)


def _truth(labels: Mapping[str, bool], reference: Mapping[str, Array]) -> dict[str, Array]:
    return {n: np.asarray(reference[n], None if label else np.float64) for n, label in labels.items()}


def _signal(part: Part, reference: Array) -> float:
    return float(reference.size) if part.labels else _over(part, _finite_squares(reference))


def _is_label(value: Array, quantized: bool) -> bool:
    return value.dtype.kind in "OSU" or (value.dtype.kind in "iub" and not quantized)


def _finite_squares(value: Array) -> Array:
    squares = value**2
    return squares if np.isfinite(squares).all() else np.where(np.isfinite(squares), squares, 0.0)


def _squares(truth: Array, value: Array) -> Array:
    """Squared differences; where only one of two values is finite, infinite."""
    with np.errstate(invalid="ignore"):
        squares = np.asarray((value - truth) ** 2)
    if not np.isfinite(squares).all():
        return noise_along(truth.reshape(-1, 1), value.reshape(-1, 1), 0).reshape(truth.shape)
    return squares


def _over(part: Part, squares: Array) -> float:
    if part.axis is None or part.channels is None:
        return float(squares.sum())
    return float(np.take(squares, part.channels, part.axis).sum())
