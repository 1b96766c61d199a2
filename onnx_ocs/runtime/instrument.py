"""Models made to be looked into: more outputs, or cut out of a larger one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array
from onnx_ocs.model.order import mentioned

__all__ = ["as_bytes", "constants_first", "cut", "expose", "outputs_apart", "piece"]


def expose(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """A copy of the model whose graph outputs include the given tensors."""
    new = onnx.ModelProto()
    new.CopyFrom(model)
    known = {o.name for o in new.graph.output}
    written = {o for n in new.graph.node for o in n.output}
    new.graph.output.extend(
        onnx.ValueInfoProto(name=t) for t in dict.fromkeys(tensors) if t not in known and t in written
    )
    return new


def cut(
    model: onnx.ModelProto, tensors: Mapping[str, Array], shapes: Mapping[str, Sequence[int | str | None]] | None = None
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A copy of the model cut at the given tensors: each is fed from outside, and what is computed for it comes out.

    Args:
        model: the model.
        tensors: name -> an example value (its dtype and shape declare the new graph input).
        shapes: what is known of the tensors' shapes in the whole model, to be declared instead: onnxruntime's
            optimizer does more where shapes are fixed.

    Returns:
        The cut model, and the name under which each computed tensor comes out.
    """
    new = onnx.ModelProto()
    new.CopyFrom(model)
    g = new.graph
    computed: dict[str, str] = {}
    outputs = {o.name for o in g.output}
    names, suffix = {o for n in g.node for o in n.output}, "__computed"
    while any(t + suffix in names for t in tensors):
        suffix += "_"
    for n in g.node:
        for k, o in enumerate(n.output):
            if o in tensors:
                computed[o] = o + suffix
                n.output[k] = computed[o]
    for name, value in tensors.items():
        if name in computed:
            element = helper.np_dtype_to_tensor_dtype(value.dtype)
            known = value.shape if shapes is None else shapes.get(name, [None] * value.ndim)
            g.input.append(helper.make_tensor_value_info(name, element, list(known)))
            g.output.append(onnx.ValueInfoProto(name=computed[name]))
            if name in outputs:  # a graph output cannot also be an input: the computed value is compared anyway
                for k, o in enumerate(g.output):
                    if o.name == name:
                        del g.output[k]
                        break
    del g.value_info[:]
    return new, computed


def as_bytes(model: onnx.ModelProto, tensors: Mapping[str, np.dtype[Any]]) -> onnx.ModelProto:
    """A copy of the model in which tensors of 2- or 4-bit integers pass through a byte, where they can be fed and read.

    Args:
        model: the model.
        tensors: name of the integers -> their dtype; the bytes are called `<name>__byte`.
    """
    new = onnx.ModelProto()
    new.CopyFrom(model)
    g = new.graph
    for n in g.node:
        for k, o in enumerate(n.output):
            if o in tensors:
                n.output[k] = o + "__narrow"
    for name, dtype in tensors.items():
        byte = TensorProto.UINT8 if dtype.name.startswith("u") else TensorProto.INT8
        back = helper.np_dtype_to_tensor_dtype(dtype)
        g.node.append(helper.make_node("Cast", [name + "__narrow"], [name + "__byte"], to=byte))
        g.node.append(helper.make_node("Cast", [name + "__byte"], [name], to=back))
    return new


def constants_first(graph: onnx.GraphProto) -> None:
    """Put the nodes that depend on constants alone in front, in place; the order stays topological.

    Without its optimizer, onnxruntime walks from the outputs back, and at a node visits the input that stands last
    first.  Where a weight's DequantizeLinear stands behind the layer before it, all weights become floats before the
    first layer runs; where it stands in front, each one when its layer runs.
    """
    constants = {t.name for t in graph.initializer}
    varying = {i.name for i in graph.input} - constants
    first: list[NodeProto] = []
    then: list[NodeProto] = []
    for n in graph.node:
        depends = not varying.isdisjoint(mentioned(n))
        (then if depends else first).append(n)
        varying.update(n.output if depends else ())
    del graph.node[:]
    graph.node.extend([*first, *then])


def outputs_apart(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model whose outputs hold what is written for them, whatever onnxruntime's optimizer does with what reads them.

    In front of a Transpose that a quantizer follows, the optimizer puts a Q and DQ of the same step.  Where the
    Transpose alone reads a graph output, the output is then what that DQ gives.  An Identity is another reader, and
    leaves the tensor alone; the optimizer keeps it as long as there are two.

    Args:
        model: the model; not changed.

    Returns:
        The model itself where no output is at risk, else a copy.
    """
    risky = _read_by_transposes(model.graph)
    if not risky:
        return model
    new = onnx.ModelProto()
    new.CopyFrom(model)
    g, suffix = new.graph, "__inner"
    taken = {t for n in g.node for t in (*mentioned(n), *n.output)}
    while any(t + suffix in taken for t in risky):
        suffix += "_"
    nodes = list[NodeProto]()
    for n in g.node:
        n.input[:] = [t + suffix if t in risky else t for t in n.input]
        written = [o for o in n.output if o in risky]
        n.output[:] = [o + suffix if o in risky else o for o in n.output]
        nodes += [n, *(helper.make_node("Identity", [o + suffix], [o]) for o in written)]
    del g.node[:]
    g.node.extend(nodes)
    return new


def _read_by_transposes(graph: onnx.GraphProto) -> set[str]:
    """Outputs of a graph that one reader after the other, none beside it, takes over a Transpose to a quantizer."""
    if not {"Transpose", "QuantizeLinear"} <= {n.op_type for n in graph.node}:
        return set()
    readers = Counter(t for n in graph.node for t in set(mentioned(n)))
    producer = {o: n for n in graph.node for o in n.output if o}
    ways = [(t, False) for n in graph.node if n.op_type == "QuantizeLinear" for t in n.input]
    seen = set[tuple[str, bool]]()
    while ways:
        t, transposed = way = ways.pop()
        n = producer.get(t)
        if n is None or readers[t] > 1 or way in seen:
            continue
        seen.add(way)
        if n.op_type != "QuantizeLinear":
            ways += [(i, transposed or n.op_type == "Transpose") for i in n.input]
    return {o.name for o in graph.output if (o.name, True) in seen}


def piece(
    graph: Graph, nodes: Sequence[NodeProto], fed: Mapping[str, Array], outputs: Sequence[str]
) -> onnx.ModelProto:
    """Some nodes of a graph as a model.

    Args:
        graph: where the nodes, their constants, opsets and functions come from (edits need not be committed).
        nodes: in topological order; those that no output needs are left out.
        fed: what they read from outside, with an example of each.
        outputs: what is asked for.
    """
    model = graph.model
    new = onnx.ModelProto(ir_version=model.ir_version)
    new.opset_import.extend(model.opset_import)
    new.functions.extend(model.functions)
    g = new.graph
    g.name = "piece"
    used, needed = set(outputs), list[NodeProto]()
    for n in reversed(nodes):
        if not used.isdisjoint(n.output):
            needed.append(n)
            used.update(mentioned(n))
    g.node.extend(reversed(needed))
    g.initializer.extend(graph.initializer(t) for t in sorted(used & graph.initializers.keys()))
    g.sparse_initializer.extend(t for t in model.graph.sparse_initializer if t.values.name in used)
    for name, value in fed.items():
        if name in used:
            element = helper.np_dtype_to_tensor_dtype(value.dtype)
            g.input.append(helper.make_tensor_value_info(name, element, [None] * value.ndim))
    g.output.extend(onnx.ValueInfoProto(name=t) for t in outputs)
    return new
