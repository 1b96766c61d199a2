"""Compensation branches in a graph: insert them, read them back, take them out again.

    regressor -> clip(+-reach) -> BLT_a -> 1x1 layer -> (+) -> clip(low, high) -> BLT_b^-1 -> Add to the block's output

Standard operators only.  A branch stands in front of the block's quantizer, in float: the quantizer's readers keep
their integer kernels, and no DequantizeLinear feeds the branch's layer, so onnxruntime has nothing to quantize in it.
The regressors are clipped first, so that no input, however large, gives anything but a bounded correction.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnx_ocs.compensation.blocks import Block
from onnx_ocs.compensation.regression import Branch
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.nodes import Array
from onnx_ocs.records.branches import RECORD, Inserted, digest

__all__ = ["insert"]


class _Builder:
    def __init__(self, graph: EditableGraph, stem: str, rank: int, axis: int) -> None:
        self.graph, self.stem, self.rank, self.axis = graph, stem, rank, axis
        self.last = axis == rank - 1

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        return self.graph.add_node(op, inputs, self.graph.fresh(f"{self.stem}_{name}"), **attributes)

    def constant(self, value: Array | float, name: str) -> str:
        return self.graph.add_initializer(f"{self.stem}_{name}", np.asarray(value, np.float32))

    def clip(self, x: str, low: float, high: float, name: str) -> str:
        if self.graph.opset < 11:
            return self.node("Clip", [x], name, min=low, max=high)
        return self.node("Clip", [x, self.constant(low, name + "_low"), self.constant(high, name + "_high")], name)

    def blt(self, x: str, alpha: float, name: str) -> str:
        if alpha == 0:
            return x
        size = self.node("Abs", [x], name + "_abs")
        size = self.node("Mul", [size, self.constant(alpha, name + "_alpha")], name + "_scaled")
        size = self.node("Add", [size, self.constant(1.0, name + "_one")], name + "_plus")
        size = self.node("Log", [size], name + "_log")
        return self.node("Mul", [self.node("Sign", [x], name + "_sign"), size], name + "_blt")

    def inverse(self, z: str, beta: float) -> str:
        if beta == 0:
            return z
        size = self.node("Exp", [self.node("Abs", [z], "abs")], "exp")
        size = self.node("Sub", [size, self.constant(1.0, "one")], "minus")
        size = self.node("Mul", [size, self.constant(1.0 / beta, "beta")], "size")
        return self.node("Mul", [self.node("Sign", [z], "sign"), size], "correction")

    def column(self, values: Array) -> Array:
        """Per-channel values that broadcast along the channel axis."""
        return values.reshape(-1, *[1] * (self.rank - 1 - self.axis))

    def weight(self, w: Array, name: str) -> str:
        """A branch's weight as its operator takes it; a kernel of size 1, except what is diagonal or a MatMul's."""
        if w.ndim == 1:
            return self.constant(self.column(w), name)
        if w.ndim == 2 and self.last:
            return self.constant(w, name)
        w = np.swapaxes(w, -1, -2)
        return self.constant(w.reshape(-1, w.shape[-1], *[1] * (self.rank - 2)), name)

    def apply(self, x: str, w: Array, weight: str, name: str) -> str:
        """Multiply with a weight along the channels."""
        if w.ndim == 1:
            return self.node("Mul", [x, weight], name)
        if w.ndim == 2 and self.last:
            return self.node("MatMul", [x, weight], name)
        groups = {"group": len(w)} if w.ndim == 3 else {}
        kernel = [1] * (self.rank - 2)
        if not self.last:
            return self.node("Conv", [x, weight], name, kernel_shape=kernel, **groups)
        inner = list(range(1, self.rank - 1))  # a grouped Conv between two Transposes is far cheaper than small MatMuls
        x = self.node("Transpose", [x], name + "_first", perm=[0, self.rank - 1, *inner])
        x = self.node("Conv", [x, weight], name + "_grouped", kernel_shape=kernel, **groups)
        return self.node("Transpose", [x], name, perm=[0, *(a + 1 for a in inner), 1])

    def thin(self, x: str, strides: Sequence[int], name: str) -> str:
        """Every strides-th position."""
        if all(s == 1 for s in strides):
            return x
        axes = np.arange(2, self.rank)
        ends = np.full(len(axes), np.iinfo(np.int64).max)
        parts = [
            self.graph.add_initializer(f"{self.stem}_{name}_{k}", np.asarray(v, np.int64))
            for k, v in (("starts", 0 * axes), ("ends", ends), ("axes", axes), ("steps", np.asarray(strides)))
        ]
        return self.node("Slice", [x, *parts], name)


def insert(graph: EditableGraph, block: Block, branch: Branch, regressors: Sequence[str], rank: int) -> Inserted:
    """Add a branch to a block's output; all that reads the output then reads the corrected one.

    Args:
        graph: the graph; edited, not committed.
        block: the block.
        branch: what to add.
        regressors: tensors that the branch's regressors are, in its order.
        rank: of the output.

    Returns:
        What the file says about it.
    """
    y = block.output
    b = _Builder(graph, y + "_nbc", rank, block.axis)
    readers, is_output, captured = graph.readers(y), y in graph.outputs, bool(graph.captured(y))
    before, after = y, graph.fresh(y + "_compensated")
    if is_output or captured:  # the name stays with the corrected value
        before, after = graph.fresh(y + "_uncompensated"), y
        graph.rename_output(y, before)
    names: dict[str, Any] = {"weights": [], "back": None, "bias": None}
    ones = [1] * max(rank - 2, 0)
    total: str | None = None
    for k, (tensor, w) in enumerate(zip(regressors, branch.weights, strict=True)):
        own = tensor == y
        x = b.thin(before if own else tensor, ones if own else block.strides, f"thin{k}")
        x = b.blt(b.clip(x, -branch.reach[k], branch.reach[k], f"bounded{k}"), branch.alphas[k], f"in{k}")
        names["weights"].append(b.weight(w, f"weight{k}"))
        x = b.apply(x, w, names["weights"][k], f"layer{k}")
        total = x if total is None else b.node("Add", [total, x], f"sum{k}")
    names["bias"] = b.constant(b.column(branch.bias), "bias")
    correction = names["bias"]
    if total is not None:
        if branch.back is not None:
            names["back"] = b.weight(branch.back, "back")
            total = b.apply(total, branch.back, names["back"], "layer_back")
        total = b.node("Add", [total, names["bias"]], "prediction")
        correction = b.inverse(b.clip(total, branch.low, branch.high, "clipped"), branch.beta)
    graph.add_node("Add", [before, correction], after)
    entry: dict[str, Any] = {
        "output": y, "before": before, "after": after,
        "regressors": [before if t == y else t for t in regressors], "form": branch.form,
        "rank": branch.rank, "groups": branch.groups, "alpha": list(branch.alphas), "beta": branch.beta,
        "low": branch.low, "high": branch.high, "reach": list(branch.reach), "strides": list(block.strides),
        "axis": block.axis, **names,
    }  # fmt: skip
    entry["digest"] = digest(entry, graph)
    graph.producer[after].metadata_props.add(key=RECORD, value=json.dumps(entry))
    for reader in readers:
        for k, t in enumerate(reader.input):
            if t == y:
                graph.set_input(reader, k, after)
    return Inserted(y, before, after, tuple(before if t == y else t for t in regressors), entry)
