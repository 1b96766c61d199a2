"""What a rewritten model must compute, built from the original and the report alone.

Nothing of the product is used here: each translated Q..DQ becomes Div, Round, Max, Min and Mul in float, with a bound
of (copies + 1) times the quantizer's for each channel (of as many whole ranges more, where copies hold these).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
MOVES = ("MaxPool", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
MAGIC = 1.5 * 2**23  # rounds a float32 to the nearest integer, ties to even, when added and subtracted


def initializer(model: onnx.ModelProto, name: str) -> Array:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def wide_model(
    model: onnx.ModelProto,
    regions: Sequence[Mapping[str, Any]],
    ranks: Mapping[str, int],
    grids: Sequence[Mapping[str, Any]] = (),
) -> Any:
    """The original with wide float quantizers (of the pass `split`: with steps of twice the size).

    Args:
        model: the original.
        regions: the report's entries; those with status "applied" are widened.
        ranks: rank of each region's tensor.
        grids: the report's new grids; a region's step before is what `regrid` gave it.
    """
    first = {g["tensor"]: g["scale_before"] for g in grids if g["status"] == "applied"}
    new = onnx.ModelProto()
    new.CopyFrom(model)
    g = new.graph
    added: list[onnx.NodeProto] = []
    dead: set[int] = set()
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))

    def const(value: Array) -> str:
        name = f"reference_{len(g.initializer)}"
        g.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def op(kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        out = out or f"reference_value_{len(added)}"
        added.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def follow(integers: str, floats: str, scale: Array) -> None:
        """Let `floats` flow where the integers of one Q flow, and stand for what their DQ writes."""
        for k, n in enumerate(model.graph.node):
            if not n.input or n.input[0] != integers:
                continue
            if n.op_type == "DequantizeLinear" and np.array_equal(initializer(model, n.input[1]), scale):
                op("Identity", floats, out=n.output[0])
                dead.add(k)
            elif n.op_type == "Clip":
                follow(n.output[0], floats, scale)
            elif n.op_type in MOVES:
                added.append(helper.make_node(n.op_type, [floats, *n.input[1:]], [n.output[0] + "_reference"]))
                added[-1].attribute.extend(n.attribute)
                follow(n.output[0], n.output[0] + "_reference", scale)

    for e in regions:
        if e["status"] != "applied":
            continue
        found = 0
        before = np.asarray(first.get(e["tensor"], e["scale_before"]))
        for n in model.graph.node:
            if n.op_type != "QuantizeLinear" or n.input[0] != e["tensor"]:
                continue
            scale = initializer(model, n.input[1])
            if not np.array_equal(scale.astype(np.float64), before):
                continue
            found += 1
            shape = [1] * ranks[e["tensor"]]
            shape[e["axis"]] = -1
            copies = np.asarray(e["copies"])
            low = np.asarray(e["copies_low"]) if e["copies_low"] else np.zeros_like(copies)
            z = np.asarray(e["zero_point"])
            top = ((copies + 1) * (e["qmax"] - z)).reshape(shape)
            bottom = ((low + 1) * (e["qmin"] - z)).reshape(shape)
            if e.get("full"):  # each copy has all the levels there are
                levels = e["qmax"] - e["qmin"]
                top = (e["qmax"] - z + copies * levels).reshape(shape)
                bottom = (e["qmin"] - z - low * levels).reshape(shape)
            now = np.asarray(e["scale"]).astype(scale.dtype)
            now = now.reshape(shape) if now.size > 1 else now
            if e["pass"] == "split":
                top, bottom = (np.broadcast_to(e[k] - z, copies.shape).reshape(shape) for k in ("qmax", "qmin"))
                now = now * (copies + 1).astype(scale.dtype).reshape(shape)
            step = const(now)
            x = n.input[0] if scale.dtype == np.float32 else op("Cast", n.input[0], to=TensorProto.FLOAT)
            t = op("Div", x, step)
            t = op("Round", t) if opset >= 11 else op("Sub", op("Add", t, const(np.asarray(MAGIC))), const(MAGIC))
            t = op("Mul", op("Max", op("Min", t, const(top)), const(bottom)), step)
            if scale.dtype != np.float32:
                t = op("Cast", t, to=helper.np_dtype_to_tensor_dtype(scale.dtype))
            follow(n.output[0], t, scale)
        assert found, f"no QuantizeLinear on {e['tensor']} with the step {e['scale_before']}"
    nodes = [n for k, n in enumerate(g.node) if k not in dead]
    del g.node[:]
    g.node.extend([*nodes, *added])
    del g.value_info[:]
    return new


def layer_weights(model: onnx.ModelProto) -> dict[str, tuple[onnx.NodeProto, Array]]:
    """For each weighted layer (by its name, or first output) the node and the constant at the end of its weight."""
    producer = {o: n for n in model.graph.node for o in n.output}
    constants = {t.name: t for t in model.graph.initializer}
    constants |= {n.output[0]: n.attribute[0].t for n in model.graph.node if n.op_type == "Constant"}
    found = {}
    for n in model.graph.node:
        if n.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            name = n.input[1]
            while name not in constants and name in producer:
                name = producer[name].input[0]
            if name in constants:
                w = numpy_helper.to_array(constants[name])
                w = np.moveaxis(w, 0, -1) if n.op_type == "MatMul" and w.ndim == 3 else w
                found[n.name or n.output[0]] = (n, w)
    return found


def _origins(new: Array, old: Array, axis: int) -> list[int]:
    """Which slice of `old` along an axis each slice of `new` is; the other axis may hold repetitions."""
    if new.shape[axis] == old.shape[axis]:
        return list(range(old.shape[axis]))
    same = new.shape[1 - axis] == old.shape[1 - axis]

    def contents(w: Array) -> list[Any]:
        rows = np.moveaxis(w, axis, 0)
        parts = [[np.ascontiguousarray(v).tobytes() for v in row] for row in rows]
        return [tuple(p) if same else frozenset(p) for p in parts]

    known = contents(old)
    return [known.index(c) for c in contents(new)]


def is_repetition(new: Array, old: Array) -> bool:
    """Whether a matrix (of kernels) is another one with rows and columns repeated or reordered."""
    if new.dtype != old.dtype or new.shape[2:] != old.shape[2:]:
        return False
    try:
        rows, columns = _origins(new, old, 0), _origins(new, old, 1)
    except ValueError:
        return False
    return np.array_equal(new, old[np.ix_(rows, columns)])
