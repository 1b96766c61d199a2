"""Where models are cut to be compared: the integers of every quantized activation, wide or not.

Wide integers and the value k that they stand for (the sum over a channel's base and copies) convert both ways.  Halved
channels (OCS) hold k twice, in steps of twice the size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.regions.wide import Wide

__all__ = ["Cut", "find_cuts", "nibbles", "requantized"]


@dataclass(frozen=True)
class Cut:
    """One quantized activation in the three models."""

    tensor: str  # float input of the Q
    quantizer: Quantizer
    original: str  # integers in the original
    oracle: str  # integers, or float k, in the oracle
    rewritten: str  # integers in the rewritten model
    wide: Wide | None
    quantized: str  # what the Q writes in the original

    @property
    def stored(self) -> np.dtype[np.generic]:
        """The dtype in which the integers are fed."""
        d = self.quantizer.dtype
        return d if d.kind in "iu" else np.dtype(np.uint8 if d.name.startswith("u") else np.int8)

    @property
    def noise(self) -> float:
        """Rounding unit of the float tensor's dtype at the quantizer's largest value, in steps."""
        q = self.quantizer
        most = 1 if self.wide is None else 1 + int(np.abs(self.wide.level).max()) * (1 + self.wide.full)
        return (q.qmax - q.qmin) * most * float(np.finfo(q.float_dtype.name).eps) / 2

    def split(self, k: Array) -> Array:
        """The wide integers whose sum is zero_point + k (halved: each is)."""
        q, w = self.quantizer, self.wide
        if w is None:
            return k.astype(self.stored)
        values = np.take(np.rint(np.nan_to_num(k)).astype(np.int64), w.origin, axis=w.axis)
        shape = [1] * k.ndim
        shape[w.axis] = -1
        z = np.broadcast_to(q.zero_point, (w.narrow,))[w.origin].reshape(shape)
        if w.halved:
            return np.asarray(values + z).astype(self.stored)
        level = w.level.reshape(shape)
        up, low = q.qmax - z, z - q.qmin
        if w.full:
            return np.asarray(np.clip(values - level * (q.qmax - q.qmin), -low, up) + z).astype(self.stored)
        copy_up = np.clip(values - level * up, 0, up)
        copy_low = np.clip(values - level * low, -low, 0)
        base = np.clip(values, -low, up)
        return np.asarray(np.where(level > 0, copy_up, np.where(level < 0, copy_low, base)) + z).astype(self.stored)

    def total(self, integers: Array) -> Array:
        """The value k that wide integers stand for (not wide, or halved: the integers themselves)."""
        q, w = self.quantizer, self.wide
        if w is None or w.halved:
            return integers.astype(np.int64)
        shape = [1] * integers.ndim
        shape[w.axis] = -1
        z = (np.broadcast_to(q.zero_point, (w.narrow,))[w.origin] + w.rests(q)).reshape(shape)
        steps = np.moveaxis(integers.astype(np.int64) - z, w.axis, 0)
        out = np.zeros((w.narrow, *steps.shape[1:]), np.int64)
        np.add.at(out, w.origin, steps)
        return np.moveaxis(out, 0, w.axis)

    def steps(self, a: Array) -> Array:
        """A float tensor in steps, before rounding."""
        s = self.quantizer.scale
        if s.size > 1:
            shape = [1] * a.ndim
            shape[self.wide.axis if self.wide else (self.quantizer.axis or 0)] = -1
            s = s.reshape(shape)
        steps = np.asarray(a.astype(np.float64) / s)
        if self.wide is None or not self.wide.halved:
            return steps
        shape = [1] * a.ndim
        shape[self.wide.axis] = -1
        return np.take(steps / self.wide.units().reshape(shape), self.wide.origin, axis=self.wide.axis)


def _final(graph: Graph, quantized: str) -> str:
    """The integer tensor behind a Q and its Clip, if it has one."""
    readers = graph.readers(quantized)
    if len(readers) == 1 and is_op(readers[0], "Clip") and quantized not in graph.outputs:
        return str(readers[0].output[0])
    return quantized


def find_cuts(
    original: Graph, rewritten: Graph, layouts: Mapping[str, tuple[str, Wide]], names: Mapping[str, str]
) -> list[Cut]:
    """All places to cut.

    Args:
        original: the original model.
        rewritten: the rewritten one.
        layouts: what a Q wrote in the original -> (what it writes now, layout).
        names: what a Q wrote in the original -> its k in the oracle.
    """
    cuts = []
    for n in original.nodes:
        if not is_op(n, "QuantizeLinear") or original.is_constant(n.input[0]):
            continue
        q = read_quantizer(original, n)
        if not isinstance(q, Quantizer):
            continue
        name = n.output[0]
        new, wide = layouts.get(name, (name, None))
        at = _final(original, name)
        if new in rewritten.producer:
            after = _final(rewritten, new)
            writer = rewritten.producer[new]
            now = read_quantizer(rewritten, writer) if is_op(writer, "QuantizeLinear") else q
            if q.dtype.kind not in "iu":  # 2- and 4-bit integers pass through a byte there
                at += "__byte"
            if isinstance(now, Quantizer) and now.dtype.kind not in "iu":
                after += "__byte"
            cuts.append(Cut(n.input[0], q, at, names.get(name, at), after, wide, name))
    return cuts


def nibbles(graph: Graph) -> dict[str, np.dtype[np.generic]]:
    """Activations of 2- or 4-bit integers, which onnxruntime can neither be fed nor asked for."""
    found = {}
    for n in graph.nodes:
        if is_op(n, "QuantizeLinear") and not graph.is_constant(n.input[0]):
            q = read_quantizer(graph, n)
            if isinstance(q, Quantizer) and q.dtype.kind not in "iu":
                found[_final(graph, str(n.output[0]))] = q.dtype
    return found


def requantized(rewritten: Graph, cut: Cut) -> Cut:
    """A cut with the rewritten model's own quantizer, of another zero-point and type perhaps, where it has one step."""
    n = rewritten.producer.get(cut.quantized)
    q = read_quantizer(rewritten, n) if n is not None and is_op(n, "QuantizeLinear") else None
    return replace(cut, quantizer=q) if isinstance(q, Quantizer) and q.scale.size == 1 else cut
