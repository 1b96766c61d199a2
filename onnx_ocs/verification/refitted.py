"""Re-fitted layers: are their constants what the file declares, and does onnxruntime compute what they say?

The yardstick is numpy, from the declared integers and steps alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import NodeProto

from onnx_ocs.calibration.samples import Samples
from onnx_ocs.errors import first_line
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.qdq.weights import read_weight
from onnx_ocs.records.weights import Refit, Refitted, digest
from onnx_ocs.runtime.instrument import expose
from onnx_ocs.runtime.session import LEVELS, RUN_ERRORS, Session, attempt
from onnx_ocs.verification.constants import Expected
from onnx_ocs.verification.multiply import multiply
from onnx_ocs.verification.operands import read_operand, side

__all__ = ["check_refitted", "substituted"]

CLOSE = 2e-4  # of a layer's largest value: float32 sums over its inputs
DAMAGED: tuple[type[Exception], ...] = (*RUN_ERRORS, LookupError, TypeError)  # a file may be so in any way
ON_GRID = 1e-3  # of a step, by which a weight that is stored in float may miss its grid
TIED = 1e-4  # how far a bias's scale may be from s_x * s_w


def substituted(model: onnx.ModelProto, expected: Mapping[str, Expected]) -> onnx.ModelProto:
    """A copy of a model with other values for constants: what it would be if nothing had been re-fitted.

    Args:
        model: the rewritten model; not changed.
        expected: by initializer, or by what a Constant node writes.
    """
    new = onnx.ModelProto()
    new.CopyFrom(model)
    for t in new.graph.initializer:
        if t.name in expected:
            t.CopyFrom(_tensor(expected[t.name], t.name))
    for n in new.graph.node:
        if n.op_type == "Constant" and n.output[0] in expected:
            value = _tensor(expected[n.output[0]], "")
            del n.attribute[:]
            n.attribute.append(onnx.helper.make_attribute("value", value))
    return new


def _tensor(value: Expected, name: str) -> onnx.TensorProto:
    if not isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.from_array(np.asarray(value, order="C"), name)
    new = onnx.TensorProto()
    new.CopyFrom(value)
    new.name = name
    return new


def check_refitted(
    model: onnx.ModelProto, before: onnx.ModelProto, refitted: Mapping[str, Refitted], samples: Samples, limit: int
) -> Iterator[str]:
    """Check all re-fitted layers of a file.

    Args:
        model: the rewritten model.
        before: the same as if nothing had been re-fitted (`substituted`).
        refitted: what it declares, by what a layer writes.
        samples: what to feed.
        limit: number of samples.

    Yields:
        What is wrong, one sentence each.
    """
    graph, old = Graph(model), Graph(before)
    sound = []
    for out, r in refitted.items():
        why = _constants(graph, out, r)
        if not why and out in old.producer and _tied(old, old.producer[out]) and not _tied(graph, graph.producer[out]):
            why = "the scale of its integer bias is no longer the product of its input's and its weight's"
        if why:
            yield f"the re-fitted layer '{out}': {why}"
        else:
            sound.append(out)
    yield from _computed(graph, before, sound, samples, limit)


def _constants(graph: Graph, out: str, r: Refitted) -> str:
    """What is wrong with a layer's constants; empty if nothing is."""
    node = graph.producer[out]
    weight = read_operand(graph, node) if is_op(node, "Conv", "ConvTranspose", "Gemm", "MatMul") else None
    if weight is None or weight.root != r.weight.name:
        return "it is no layer that reads the declared weight"
    for refit in (r.weight, r.weight_scale, r.bias, r.bias_scale):
        if refit is not None and (why := _digest(graph, refit)):
            return why
    root = graph.constant(weight.root)
    assert root is not None
    low, high = _range(graph, node, root)
    if low is None:
        return "its weights do not lie on their grid"
    if low < r.low or high > r.high:
        return f"its integers lie in [{low}, {high}], beyond the declared [{r.low}, {r.high}]"
    return ""


def _digest(graph: Graph, refit: Refit) -> str:
    value = graph.constant(refit.name)
    if value is None:
        return f"there is no constant '{refit.name}'"
    return "" if digest(value) == refit.digest else f"the constant '{refit.name}' does not hold what was fitted"


def _range(graph: Graph, node: NodeProto, root: Array) -> tuple[int | None, int]:
    """Smallest and largest integer of a weight; None where it is stored in float and lies off its grid."""
    if root.dtype.kind != "f":
        values = root if root.dtype.kind in "iu" else root.astype(np.int64)  # several to a byte
        return int(values.min(initial=0)), int(values.max(initial=0))
    weight = read_weight(graph, node, side(graph, node))
    w = None if weight is None else weight.quantizer(graph)
    if weight is None or w is None:
        return None, 0
    x = np.transpose(root, weight.perms[-1] if weight.perms else None).astype(np.float64)
    shape = [1] * x.ndim
    if w.axis is not None:
        shape[w.axis] = -1
    steps = x / w.scale.reshape(shape) + np.broadcast_to(w.zero_point, w.scale.shape).reshape(shape)
    whole = np.rint(steps)
    if np.abs(steps - whole).max(initial=0) > ON_GRID:
        return None, 0
    return int(whole.min(initial=0)), int(whole.max(initial=0))


def _tied(graph: Graph, node: NodeProto) -> bool:
    """Whether a bias's scale is the product of those of input and weight, which integer kernels take for granted."""
    weight = read_operand(graph, node)
    w = None if weight is None else weight.grid
    dq, x = (graph.producer.get(node.input[k]) if len(node.input) > k else None for k in (2, 0))
    if w is None or not is_op(dq, "DequantizeLinear") or not is_op(x, "DequantizeLinear") or dq is None or x is None:
        return False
    b, q = read_quantizer(graph, dq), read_quantizer(graph, x)
    if not isinstance(b, Quantizer) or not isinstance(q, Quantizer) or q.scale.size != 1:
        return False
    return w.scale.size in (1, b.scale.size) and np.allclose(b.scale, q.scale * w.scale, rtol=TIED)


def _computed(
    graph: Graph, before: onnx.ModelProto, layers: list[str], samples: Samples, limit: int
) -> Iterator[str]:
    """Layers that onnxruntime computes otherwise than numpy does; at levels at which it loads the file before them."""
    inputs = {out: graph.producer[out].input[1 - side(graph, graph.producer[out])] for out in layers}
    known = {i.name for i in graph.model.graph.input}
    asked = list(dict.fromkeys([*inputs.values(), *layers]))
    wrong: set[str] = set()
    for level in LEVELS:
        try:
            # without fused kernels, which some CPUs compute otherwise: these are compared with the original's elsewhere
            session = Session(expose(graph.model, asked), level, fusion=level == "disable_all")
            for feed in samples.batches(1, limit):
                got = {**feed, **session.run(feed, [t for t in asked if t not in known])}
                places = Counter([*layers, *(inputs[o] for o in layers)])
                for out in layers:
                    if out not in wrong and not _as_multiplied(graph, out, got[inputs[out]], got[out]):
                        wrong.add(out)
                        yield f"at {level} the re-fitted layer '{out}' does not compute what its integers say"
                    for t in (out, inputs[out]):  # what no other layer needs makes room
                        places[t] -= 1
                        if not places[t]:
                            del got[t]
        except DAMAGED as e:
            if isinstance(attempt(before, level), str):
                continue  # its optimizer stops at some files that it runs as they are written
            yield f"the model with its re-fitted layers cannot be run at {level} ({first_line(e, 200)})"
            return


def _as_multiplied(graph: Graph, out: str, x: Array, y: Array) -> bool:
    """Whether what a layer has computed is what its integers say."""
    expected = multiply(graph, graph.producer[out], x)
    if y.shape != expected.shape:
        return False
    close = max(CLOSE, 2 * float(np.finfo(y.dtype).eps)) if y.dtype == np.float16 else CLOSE  # it holds 11 bits
    most = close * np.abs(expected).max(initial=0.0) + 1e-12
    np.subtract(y, expected, out=expected)
    return not np.abs(expected, out=expected).max(initial=0.0) > most
