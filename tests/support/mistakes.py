"""Mistakes for a rewriter: its functions are replaced, so that one kind of edit goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.folding import Taken
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.qdq import bias, weights
from onnx_ocs.qdq.bias import Bias
from onnx_ocs.regions.wide import Wide
from onnx_ocs.translation import early, foldback, late, rescale, widen

Array = np.ndarray[Any, Any]
Patch = pytest.MonkeyPatch
Mistake = Callable[[Patch], None]


def constants(part: str, change: Callable[[Array], Array]) -> Callable[[Patch], None]:
    """Constants that the rewriter adds under a name that holds `part` get other values."""

    def patch(m: Patch) -> None:
        add = EditableGraph.add_initializer

        def wrong(self: EditableGraph, name: str, value: Any) -> str:
            if part in name and not isinstance(value, onnx.TensorProto):
                value = value.array() if isinstance(value, Taken) else np.asarray(value)
                value = np.asarray(change(value.copy())).astype(value.dtype)
            return add(self, name, value)

        m.setattr(EditableGraph, "add_initializer", wrong)

    return patch


def replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Callable[[Patch], None]:
    """A function of the rewriter is replaced by another one, made from it."""

    def patch(m: Patch) -> None:
        m.setattr(owner, name, make(getattr(owner, name)))

    return patch


def written(change: Callable[[Array], Array]) -> Callable[[Patch], None]:
    """Other values for every bias that is written."""

    def make(f: Any) -> Any:
        def wrong(graph: Any, node: Any, index: Any, bias: Any, value: Array, positions: Any) -> None:
            f(graph, node, index, bias, np.asarray(change(value)).astype(value.dtype), positions)

        return wrong

    def patch(m: Patch) -> None:
        for owner in (early, rescale):
            m.setattr(owner, "write_bias", make(bias.write_bias))

    return patch


def taken(change: Callable[[Array], Array]) -> Callable[[Patch], None]:
    """Other channels for every weight that is repeated."""

    def wrong(graph: Any, node: Any, index: int, axis: int, positions: Array) -> None:
        weights.edit_weight(graph, node, index, None, axis, change(positions.copy()))

    def patch(m: Patch) -> None:
        for owner in (early, widen):
            m.setattr(owner, "take", wrong)

    return patch


def one(value: Array) -> Array:
    """The last value a little larger."""
    value.reshape(-1)[-1] += 1
    return value


def swapped(value: Array) -> Array:
    value[[-1, 0]] = value[[0, -1]]
    return value


def rolled(value: Array) -> Array:
    return np.roll(value, 1, axis=0)


def repeated(value: Array) -> Array:
    value[-1] = value[0]
    return value


def scaled(by: float) -> Callable[[Array], Array]:
    return lambda value: value * by


def at_first(by: float) -> Callable[[Array], Array]:
    """The first value times a factor."""
    return lambda value: value * np.where(np.arange(value.size) == 0, by, 1.0)


def input_stays(op: str, index: int, ending: str) -> Callable[[Patch], None]:
    """An input of a node is not changed."""

    def patch(m: Patch) -> None:
        set_input = EditableGraph.set_input

        def wrong(self: EditableGraph, node: Any, k: int, tensor: str) -> None:
            if not (node.op_type == op and k == index and tensor.endswith(ending)):
                set_input(self, node, k, tensor)

        m.setattr(EditableGraph, "set_input", wrong)

    return patch


def step_recorded(by: float, which: int) -> Callable[[Patch], None]:
    def make(f: Any) -> Any:
        return lambda node, *steps: f(node, *(s * by if k == which else s for k, s in enumerate(steps)))

    return replaced(rescale, "record_step", make)


def operator(old: str, new: str) -> Callable[[Patch], None]:
    def patch(m: Patch) -> None:
        add = EditableGraph.add_node

        def wrong(self: EditableGraph, op: str, inputs: Any, output: str, domain: str = "", **attributes: Any) -> str:
            return add(self, new if op == old else op, inputs, output, domain, **attributes)

        m.setattr(EditableGraph, "add_node", wrong)

    return patch


def shifted(change: Callable[[Bias, Array, Array], Array]) -> Callable[[Patch], None]:
    return replaced(Bias, "shifted", lambda _: change)


def shift_of(times: float) -> Callable[[Bias, Array, Array], Array]:
    return lambda b, positions, shift: (b.value[positions] + times * shift).astype(np.float32)


def floor_shift(self: Bias, positions: Array, shift: Array) -> Array:
    assert self.scale is not None
    steps = np.floor(shift / np.broadcast_to(self.scale, self.value.shape)[positions])
    return np.asarray(self.value[positions] - steps, self.value.dtype)


def base_alone(graph: Any, source: str, target: str, wide: Wide, _: int) -> None:
    """Copies are lost where they should be folded back."""
    foldback.pick(graph, source, np.flatnonzero(wide.level == 0), wide.axis, target)


def picked(change: Callable[[Array], Array]) -> Callable[[Patch], None]:
    return replaced(foldback, "pick", lambda f: lambda g, t, where, *rest: f(g, t, change(where.copy()), *rest))


def quantized_apart(index: int, change: Callable[[Array], Array]) -> Callable[[Patch], None]:
    """Another parameter for the quantizers of copies that are joined as integers."""

    def make(f: Any) -> Any:
        def wrong(graph: Any, node: Any, origin: Array) -> None:
            f(graph, node, origin)
            if node.op_type == "QuantizeLinear":
                value = np.asarray(graph.constant(node.input[index]))
                changed = np.asarray(change(value.copy())).astype(value.dtype).reshape(value.shape)
                graph.set_input(node, index, graph.add_initializer("wrong", changed))

        return wrong

    return replaced(late, "parameters", make)


def joined(change: Callable[[list[str]], list[str]]) -> Callable[[Patch], None]:
    """Other parts, or in another order, are joined."""
    return replaced(late, "_join", lambda f: lambda g, names, *rest: f(g, change(list(names)), *rest))


def bases_alone(m: Patch) -> None:
    """Readers are not led to the joined integers."""

    def make(f: Any) -> Any:
        def wrong(graph: Any, node: Any, found: Any, wide: Wide) -> str:
            joined = f(graph, node, found, wide)
            for r in graph.readers(node.output[0]):
                if r.op_type == "DequantizeLinear":
                    out = r.output[0]
                    graph.rename_output(out, graph.fresh("unread"))
                    graph.add_node("DequantizeLinear", list(r.input), out)
            return str(joined)

        return wrong

    replaced(late, "integers", make)(m)


def mislabelled(record: Any, node: Any) -> None:
    """The integers of another tensor are said to be unsigned."""
    record(node)
    node.metadata_props[-1].value = "x_q"


def integers_leave(model: onnx.ModelProto, tensor: str) -> onnx.ModelProto:
    """A copy of a model that gives the integers of a quantizer, too."""
    new = onnx.ModelProto()
    new.CopyFrom(model)
    shape = infer_shapes(model)[tensor]
    new.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.INT8, shape))
    return new


def layout_recorded(**changes: Callable[[Array], Array]) -> Callable[[Patch], None]:
    def make(f: Any) -> Any:
        def wrong(node: Any, original: str, wide: Wide) -> None:
            f(node, original, replace(wide, **{k: c(getattr(wide, k).copy()) for k, c in changes.items()}))

        return wrong

    return replaced(widen, "record_layout", make)


def coarse(change: Callable[[Array], Array]) -> Callable[[Patch], None]:
    def make(f: Any) -> Any:
        def wrong(*args: Any) -> Any:
            found = f(*args)
            return None if found is None else (found[0], change(found[1].copy()).astype(found[1].dtype), found[2])

        return wrong

    return replaced(weights, "coarsened", make)


def factors(by: float) -> Callable[[Patch], None]:
    return replaced(rescale, "coarsening", lambda f: lambda *args: np.where(f(*args) > 1, f(*args) * by, 1.0))
