"""Which tensor each layer aims at: the float model's where it can be found, else a stand-in's.

Layers are paired by their weights: rows of the quantized weight point where rows of the float weight point (cosine),
at two bits, too, where activations have nothing in common any more.  Rows that are longer or shorter than the float
model's (a BatchNormalization that was folded, equalized channels) are looked up behind the nodes that follow, by value.
The stand-in is the QDQ model without its activation quantizers (`onnx_ocs.oracle.reference`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op
from onnx_ocs.qdq.layers import is_layer
from onnx_ocs.reconstruction.gains import octaves_of
from onnx_ocs.reconstruction.linear import LinearMap, canonical
from onnx_ocs.runtime.instrument import expose
from onnx_ocs.runtime.session import Session, as_written

__all__ = ["Pair", "Reference", "pair_layers"]

ALIKE = 0.5  # mean cosine that rows of one layer have at least
APART = 0.05  # by how much the second best must be worse
RATIO = 1.6  # most by which rows of one layer differ in length, where nothing was folded
NEAR = 0.3  # relative squared error of a tensor that was found behind folded nodes


@dataclass(frozen=True, eq=False)
class Pair:
    """What a layer aims at.

    Attributes:
        tensor: name of the target, in the float model or the stand-in.
        floats: whether it is the float model's.
        prior: float weights in the layer's form and units, (G, m, K), in float32 where that loses nothing; None where
            they are not known.
        other: the other operand, where the layer's output is only added to something: its name in the reference, and
            in the quantized model.
        gain: what the target is to be multiplied by, one factor a channel; None: it is in the layer's units.
    """

    tensor: str
    floats: bool
    prior: Array | None
    other: tuple[str, str] | None
    gain: Array | None = None


@dataclass(frozen=True, eq=False)
class _FloatLayer:
    node: NodeProto
    weight: Array  # (G, m, K)
    rows: Array  # the same, rows of length 1

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.weight.shape)


class Reference:
    """The float model and the stand-in, asked for tensors."""

    def __init__(self, floats: onnx.ModelProto | None, exact: onnx.ModelProto | None) -> None:
        self.floats, self.exact = floats, exact
        self._asked: list[tuple[bool, list[str], Session]] = []

    def prepare(self, floats: Sequence[str], exact: Sequence[str], threads: int | None = None) -> None:
        """Load what gives these tensors."""
        self._asked = []
        for model, names in ((self.floats, floats), (self.exact, exact)):
            wanted = list(dict.fromkeys(names))
            if model is not None and wanted:
                self._asked.append((model is self.floats, wanted, as_written(expose(model, wanted), threads)))

    def forget(self) -> None:
        """Give back what was loaded."""
        self._asked = []

    def run(self, feed: Mapping[str, Array]) -> dict[tuple[bool, str], Array]:
        """The tensors for one feed, by (whether the float model's, name)."""
        found: dict[tuple[bool, str], Array] = {}
        for is_float, names, session in self._asked:
            inside = [t for t in names if t in feed]
            found |= {(is_float, t): np.asarray(feed[t]) for t in inside}
            got = session.run(
                {k: v for k, v in feed.items() if k in session.inputs}, [t for t in names if t not in feed]
            )
            found |= {(is_float, t): v for t, v in got.items()}
        return found


def _unit(w: Array) -> Array:
    length = np.sqrt((w**2).sum(2, keepdims=True))
    return np.asarray(w / np.where(length > 0, length, 1.0))


def _float_layers(graph: Graph) -> list[_FloatLayer]:
    found = []
    for n in graph.nodes:
        if not is_layer(n) or len(n.input) < 2:
            continue
        for index in (1, 0) if n.op_type == "MatMul" else (1,):
            value = graph.constant(n.input[index])
            if value is None or graph.is_constant(n.input[1 - index]) or value.dtype.kind != "f":
                continue
            form = canonical(n, index, value.shape)
            if form is not None:
                w = value.astype(np.float64).reshape(-1)[form[0]]
                found.append(_FloatLayer(n, w, _unit(w)))
    return found


def _narrow(layer: LinearMap) -> tuple[Array, Array | None]:
    """The weight without copies, (G, m, K), and for each input of the wide one which input of that it is."""
    w = layer.matrix(layer.weight.value) * layer.factor
    wide = layer.wide
    if wide is None:
        return w, None
    if not layer.dense:
        size = layer.matrix(layer.weight.value).shape[2]
        filled = (layer.index >= 0).sum(2).min() if len(layer.index) > 1 else size
        return w[:, :, :filled], np.arange(size) % filled
    channels = wide.origin.size
    if w.shape[2] % channels:
        return w, None
    return _without_copies(layer, w, channels)


def _without_copies(layer: LinearMap, w: Array, channels: int) -> tuple[Array, Array]:
    """The same for a dense layer: inputs are kernel positions times channels (Conv), or channels times positions."""
    wide = layer.wide
    assert wide is not None
    base = np.zeros(wide.narrow, np.int64)
    base[wide.origin[wide.level == 0]] = np.flatnonzero(wide.level == 0)
    inner = w.shape[2] // channels
    numbers = np.arange(w.shape[2])
    if is_op(layer.node, "Conv", "ConvTranspose"):
        narrow = (np.arange(inner)[:, None] * channels + base).reshape(-1)
        back = numbers // channels * wide.narrow + wide.origin[numbers % channels]
    else:
        narrow = (base[:, None] * inner + np.arange(inner)).reshape(-1)
        back = wide.origin[numbers // inner] * inner + numbers % inner
    return w[:, :, narrow], back


def _find(w: Array, layers: Sequence[_FloatLayer], used: set[int]) -> int | None:
    """The float layer that a weight is, by the directions of its rows."""
    rows = _unit(w)
    scores = {k: float((rows * f.rows).sum(2).mean()) for k, f in enumerate(layers) if f.shape == w.shape}
    alike = sorted((k for k, s in scores.items() if s > ALIKE), key=lambda k: -scores[k])
    if not alike:
        return None
    close = sorted(k for k in alike if scores[k] > scores[alike[0]] - APART)
    fresh = [k for k in close if k not in used]
    return fresh[0] if fresh else close[0]


def _behind(graph: Graph, node: NodeProto) -> list[str]:
    """Tensors behind a layer, through BatchNormalization, Mul and Add with constants that read nothing else."""
    found = [str(node.output[0])]
    for _ in range(4):
        readers = graph.readers(found[-1])
        if len(readers) != 1 or not is_op(readers[0], "BatchNormalization", "Mul", "Add", "Sub", "Div"):
            break
        n = readers[0]
        if is_op(n, "Mul", "Add", "Sub", "Div") and not any(graph.is_constant(t) for t in n.input):
            break
        found.append(str(n.output[0]))
    return found


def _other(graph: Graph, y: str, through: bool) -> str | None:
    """The other operand, where a tensor is only added to something; `through` a quantizer of its own or not."""
    for _ in range(4):
        readers = graph.value_readers(y)
        if len(readers) != 1 or y in graph.outputs or graph.captured(y):
            return None
        n = readers[0]
        if is_op(n, "Add"):
            other = [t for t in n.input if t != y]
            return str(other[0]) if len(other) == 1 and not graph.is_constant(other[0]) else None
        if not through or not is_op(n, "QuantizeLinear", "DequantizeLinear", "Clip", "Identity", "Cast"):
            return None
        y = str(n.output[0])
    return None


def pair_layers(
    graph: Graph,
    layers: Sequence[LinearMap],
    floats: onnx.ModelProto | None,
    exact: onnx.ModelProto | None,
    feeds: Sequence[Mapping[str, Array]],
) -> list[Pair | None]:
    """What every layer aims at; None where nothing was found.

    Args:
        graph: the quantized model's.
        layers: its layers.
        floats: the float model.
        exact: the stand-in; None where there is none.
        feeds: a few samples.
    """
    there = None if floats is None else Graph(floats)
    known = [] if there is None else _float_layers(there)
    written = set() if exact is None else {o for n in exact.graph.node for o in n.output}
    used: set[int] = set()
    found: list[Pair | None] = []
    unsure: list[_Unsure] = []
    mine, theirs = octaves_of(graph.model), octaves_of(exact)
    for layer in layers:
        other = _other(graph, layer.y, True)
        stand_in = None
        if layer.y in written:
            seen = other is not None and (other in written or other in graph.inputs)
            both = (other, other) if other is not None and seen else None
            stand_in = Pair(layer.y, False, None, both, _between(mine.rows(layer), theirs.rows(layer)))
        found.append(stand_in)
        if there is None:
            continue
        w, back = _narrow(layer)
        rows, columns = mine.rows(layer), mine.columns(layer, w.shape[2])
        along = 1.0 if rows is None else rows[layer.outputs][:, :, None]
        w = w * columns / along  # as it was without gains
        k = _find(w, known, used)
        if k is None:
            continue
        used.add(k)
        float_w = known[k].weight
        length = np.sqrt((w**2).sum(2)) / np.maximum(np.sqrt((float_w**2).sum(2)), 1e-30)
        spread = length[length > 0]
        tensors = _behind(there, known[k].node)
        node = known[k].node
        if spread.size and spread.max() <= RATIO and spread.min() >= 1 / RATIO:
            behind = layer.bias is not None and (len(node.input) < 3 or not node.input[2]) and len(tensors) > 1
            tensor = tensors[1] if behind and is_op(there.producer[tensors[1]], "Add") else tensors[0]
            prior = _widened(float_w * along / columns, back, layer)
            found[-1] = Pair(tensor, True, prior, _both(there, tensor, other), rows)
        else:
            gain = (w * float_w).sum(2) / np.maximum((float_w**2).sum(2), 1e-30)
            prior = _widened(float_w * gain[:, :, None] * along / columns, back, layer)
            there_now = theirs.rows(layer)
            unsure.append(_Unsure(len(found) - 1, layer, tensors, prior, rows, 1.0 if there_now is None else there_now))
    _by_value(found, unsure, floats, exact, feeds, written)
    return found


def _between(now: Array | None, before: Array | None) -> Array | None:
    """What a stand-in's tensor is to be multiplied by, where it declares some of the gains itself."""
    return now if now is None or before is None else now / before


def _both(there: Graph, tensor: str, other: str | None) -> tuple[str, str] | None:
    in_floats = _other(there, tensor, False)
    return None if other is None or in_floats is None else (in_floats, other)


def _widened(w: Array, back: Array | None, layer: LinearMap) -> Array:
    if back is not None:
        w = np.asarray(np.where(layer.index >= 0, w[:, :, back], 0.0))
    with np.errstate(over="ignore"):
        small = w.astype(np.float32)
    return small if np.array_equal(small, w) else w


@dataclass(frozen=True, eq=False)
class _Unsure:
    """A layer whose target is to be found by value.

    Attributes:
        number: of the layer.
        layer: the layer.
        names: of the tensors that it may be.
        prior: float weights in the layer's units.
        gain: what the target is to be multiplied by.
        there: what it is to be multiplied by to be the stand-in's.
    """

    number: int
    layer: LinearMap
    names: list[str]
    prior: Array
    gain: Array | None
    there: Array | float

    def error(self, wanted: Array, stood_in: Array) -> float:
        """Relative squared distance of a tensor from the stand-in's."""
        here, axis = np.moveaxis(stood_in.astype(np.float64), self.layer.axis, -1), self.layer.axis
        apart = np.moveaxis(wanted, axis, -1) * self.there - here
        return float(np.square(apart).sum() / max(float(np.square(here).sum()), 1e-30))


def _by_value(
    found: list[Pair | None],
    unsure: Sequence[_Unsure],
    floats: onnx.ModelProto | None,
    exact: onnx.ModelProto | None,
    feeds: Sequence[Mapping[str, Array]],
    written: set[str],
) -> None:
    """Choose the tensor behind folded nodes that is nearest to the stand-in's, where one is near."""
    unsure = [u for u in unsure if u.layer.y in written]
    if not unsure or not feeds:
        return
    reference = Reference(floats, exact)
    reference.prepare([t for u in unsure for t in u.names], [u.layer.y for u in unsure])
    errors: dict[tuple[int, str], list[float]] = {}
    for feed in feeds:
        got = reference.run(feed)
        for u in unsure:
            for t in u.names:
                if got[True, t].shape == got[False, u.layer.y].shape:
                    errors.setdefault((u.number, t), []).append(u.error(got[True, t], got[False, u.layer.y]))
    for u in unsure:
        means = {t: float(np.mean(errors[u.number, t])) for t in u.names if (u.number, t) in errors}
        nearest = min(means, key=lambda t: means[t], default=None)
        if nearest is not None and means[nearest] < NEAR:
            found[u.number] = Pair(nearest, True, u.prior, None, u.gain)
