"""Which gains: powers of two that make the levels of one step reach the small channels as well as the large ones.

    minimise over e      sum over c of  E(Q(2^e[c] x[c]) / 2^e[c] - x[c])^2  ||W[c]||^2        the tensor's rounding
                       + sum over outputs o, channels c of  (s[o] 2^r[o])^2 / 12  4^e[c]  E x[c]^2   the weights'

s[o] is the step of the weights of output o, and 2^r[o] what it must grow by: a channel that is made small has large
weights.  Only weights that are rounded again count.  Two families are tried: SmoothQuant's
(e = -alpha log2 max |x| + (1 - alpha) log2 max |W|), and each channel's own best with a bound on what steps grow by.

Few samples do not have the largest values, and a channel that just fits them is clipped in use.  So values that are
larger by half an octave count as if there had been a few of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array
from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.regridding.absorb import Absorbing

__all__ = ["LEAST", "MOST", "Chosen", "Seen", "choose", "look"]

LEAST, MOST = -6, 12  # octaves
WORTH = 2.0  # by what the error must become smaller
POSITIONS = 128  # of each sample that are looked at
OUTPUTS = 512  # of each layer's
ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
BOUNDS = (1, 1.5, 2, 3, 4, 6, 8, 16, 32)  # by what the weights' steps may grow
AROUND = (-1, 0, 1)
LARGER, UNSEEN = 2**0.5, 6  # as if so many values of each channel were larger by that


@dataclass(eq=False)
class Seen:
    """What is seen of a tensor's channels.

    Attributes:
        error: summed squared rounding error at each number of octaves, (octaves, C).
        beyond: summed squares of what is clipped of values that are `LARGER`, likewise.
        square: summed squares, (C,).
        largest: largest absolute value, (C,).
        count: of values in each channel.
    """

    error: Array
    beyond: Array
    square: Array
    largest: Array
    count: int = 0

    @classmethod
    def nothing(cls, channels: int) -> Seen:
        """Before the first sample."""
        octaves = MOST - LEAST + 1
        return cls(np.zeros((octaves, channels)), np.zeros((octaves, channels)), np.zeros(channels), np.zeros(channels))

    def add(self, values: Array, q: Quantizer) -> None:
        """Count values (C, n) of one sample."""
        x = values.astype(np.float32)
        if q.rectifies:
            x = np.maximum(x, 0)  # what saturates there is a ReLU's
        zero, step, larger = np.float32(float(q.zero_point)), float(q.scale), x * np.float32(LARGER)
        for k in range(len(self.error)):
            fine = np.float32(step / 2.0 ** (LEAST + k))
            back = (np.clip(np.rint(x / fine) + zero, q.qmin, q.qmax) - zero) * fine
            self.error[k] += np.square(back - x).sum(1, dtype=np.float64)
            kept = np.clip(larger, (q.qmin - zero) * fine, (q.qmax - zero) * fine)
            self.beyond[k] += np.square(larger - kept).sum(1, dtype=np.float64)
        self.square += np.square(x).sum(1, dtype=np.float64)
        self.largest = np.maximum(self.largest, np.abs(x).max(1, initial=0.0))
        self.count += x.shape[1]


def look(tensors: Iterable[tuple[str, Array]], wanted: Mapping[str, Absorbing]) -> dict[str, Seen]:
    """Count the values of tensors.

    Args:
        tensors: name and values of one sample, in any order.
        wanted: those to be counted.
    """
    found: dict[str, Seen] = {}
    for name, value in tensors:
        a = wanted.get(name)
        if a is None or value.ndim < -a.axis or value.shape[a.axis] != a.channels:
            continue
        rows = np.moveaxis(value, a.axis, 0).reshape(a.channels, -1)
        some = rows[:, :: max(1, rows.shape[1] // POSITIONS)]
        if np.isfinite(some).all():
            found.setdefault(name, Seen.nothing(a.channels)).add(some, a.region.quantizer)
    return found


@dataclass(frozen=True, eq=False)
class _Weights:
    """Some outputs of a layer.

    Attributes:
        size: log2 of the largest |integer| that an output has at a channel, (C, outputs); -inf: it does not see it.
        step: of each output, float64 (outputs,).
        energy: summed squares of the weights of each channel, (C,).
        limit: log2 of the largest |integer| that fits.
        taps: weights that an output has for a channel.
        one: whether all outputs have one step, that of all the layer's outputs.
    """

    size: Array
    step: Array
    energy: Array
    limit: float
    taps: int
    one: bool = False


def _weights(graph: Graph, a: Absorbing) -> Iterator[_Weights]:
    for layer in a.layers:
        q = layer.weight.quantizer(graph)
        assert q is not None
        steps = np.broadcast_to(q.scale.reshape(-1), (layer.outputs,))
        each = layer.outputs // layer.groups
        skipped = np.arange(each)[:: -(-each // OUTPUTS)]
        energy, sizes, start, taps = np.zeros(a.channels), [], 0, 1
        for part in layer.parts(graph):  # (C, outputs of a group, taps): the floats of a large weight are many
            energy += np.square(part).sum((1, 2))
            some = skipped[(skipped >= start) & (skipped < start + part.shape[1])]
            with np.errstate(divide="ignore"):
                sizes.append(np.log2(np.abs(part[:, some - start]).max(2)))
            start, taps = start + part.shape[1], part.shape[2]
        if layer.groups == a.channels > 1 and q.axis is not None:  # depthwise: steps of their own, which follow exactly
            yield _Weights(np.empty((a.channels, 0)), np.empty(0), energy, 0.0, taps)
            continue
        size, inside = np.concatenate(sizes, 1), a.channels // layer.groups
        if q.axis is None:  # one step, which grows for all
            seen = np.full((layer.groups, inside, layer.groups, skipped.size), -np.inf)
            for g in range(layer.groups):
                seen[g, :, g] = size[g * inside : (g + 1) * inside]
            seen = seen.reshape(a.channels, -1) - np.log2(steps[0])
            own = np.full(seen.shape[1], steps[0] * np.sqrt(each / skipped.size))
            yield _Weights(seen, own, energy, float(seen.max()), taps, True)
            continue
        for g in range(layer.groups):
            mine, own = slice(g * inside, (g + 1) * inside), steps[g * each + skipped]
            seen = np.full(size.shape, -np.inf)
            seen[mine] = size[mine] - np.log2(own)
            scale = np.sqrt(each / skipped.size)  # outputs that are left out are as the others
            yield _Weights(seen, own * scale, energy if g == 0 else np.zeros(a.channels), float(seen.max()), taps)


@dataclass(frozen=True, eq=False)
class Chosen:
    """Gains that are worth it.

    Attributes:
        absorbing: the tensor.
        octaves: exponents of its channels, int64 (C,).
        smaller: by what the error becomes smaller than with the best power of two for all channels.
    """

    absorbing: Absorbing
    octaves: Array = field(repr=False)
    smaller: float


def choose(graph: Graph, a: Absorbing, seen: Seen) -> Chosen | None:
    """The octaves of each channel that leave the smallest error.

    Args:
        graph: the graph.
        a: the tensor.
        seen: what is seen of it.

    Returns:
        The gains; None where none are worth it.
    """
    weights = list(_weights(graph, a))
    energy = np.sum([w.energy for w in weights], 0)
    count = max(seen.count, 1)
    power = seen.square / count
    error = (seen.error + seen.beyond * min(UNSEEN / count, 1.0)) / count * energy
    numbers = np.arange(a.channels)

    def cost(octaves: Array) -> float:
        found = error[octaves - LEAST, numbers].sum()
        for w in weights:
            if w.step.size:
                grown = _grown(w, octaves)
                again = (octaves[:, None] + grown > 0) & np.isfinite(w.size)
                noise = (again * (4.0**octaves * power)[:, None]).sum(0)
                found += w.taps / 12 * (np.square(w.step * 2.0**grown) * noise).sum()
        return float(found)

    plain = float(error.sum(1).min())
    tried = {tuple(o.tolist()): cost(o) for o in _tried(weights, seen, error)}
    best = min(tried, key=lambda o: tried[o])
    if tried[best] * WORTH >= plain:
        return None
    return Chosen(a, np.asarray(best), plain / max(tried[best], 1e-300))


def _grown(w: _Weights, octaves: Array) -> Array:
    """By how many octaves the step of each output grows."""
    most = (w.size - octaves[:, None]).max(0) - w.limit
    if w.one:
        most = np.full_like(most, most.max(initial=-np.inf))
    return np.ceil(np.where(np.isfinite(most), most, 0.0) - 1e-9)


def _tried(weights: Sequence[_Weights], seen: Seen, error: Array) -> Iterator[Array]:
    """Octaves to be tried."""

    def bounded(wish: Array) -> Array:
        return np.clip(np.rint(wish), LEAST, MOST).astype(np.int64)

    own = error.argmin(0) + LEAST
    yield own
    dense = [w for w in weights if w.step.size]
    if not dense:
        return
    share = np.max([np.where(np.isfinite(w.size), w.size - w.limit, -60.0).max(1, initial=-60.0) for w in dense], 0)
    for bound in BOUNDS:
        for shift in AROUND:
            yield bounded(np.maximum(own, share - np.log2(bound) + shift))
    with np.errstate(divide="ignore"):
        large = np.log2(seen.largest)
    large = np.where(np.isfinite(large), large, large[np.isfinite(large)].min(initial=0.0))
    for alpha in ALPHAS:
        wish = (1 - alpha) * share - alpha * large
        top = float((wish + large).max())  # the largest channel stays where it is
        for shift in AROUND:
            yield bounded(wish - top + float(large.max()) + shift)
