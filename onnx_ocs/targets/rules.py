"""What a runtime demands of a QDQ file, as data, and where a file does not meet it.

A target is one module with one value of `Rules`; the module's docstring names the documents that the rules were read
from.  Whoever rewrites asks the rules what may be made; `violations` reads a file, whoever has made it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, helper

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import is_op, label
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer

__all__ = ["Rules", "Violation", "violations"]

FUSED = ("Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "Tanh")  # computed with what stands in front
SHAPED = ("Shape", "Size", "ConstantOfShape")  # what they write is no activation


@dataclass(frozen=True)
class Rules:
    """What a runtime demands.

    Attributes:
        name: of the target.
        activations: dtypes of activations that it runs on integers.
        weights: dtypes of weights and other constants.
        biases: dtypes of what is dequantized to a bias; float biases are allowed everywhere.
        zero_points: those that an activation may have; None: any.
        weight_zero: whether the zero points of weights must be 0.
        per_channel: whether an activation may have a step for each channel.
        floats: whether operators may run in float between quantizers, where copies may be made or folded back.
        signed_late: whether copies of signed activations may be joined in float.
        channel_late: whether copies of activations with a step for each channel may be made in front of one quantizer,
            as they are where a Clip holds its bounds.
        short_as_fast: whether it computes with activations of 16 bits about as fast as with 8.
        align: what its kernels want the number of channels to be a multiple of.
    """

    name: str
    activations: frozenset[str] = frozenset({"int8", "uint8"})
    weights: frozenset[str] = frozenset({"int8", "uint8"})
    biases: frozenset[str] = frozenset({"int32"})
    zero_points: frozenset[int] | None = None
    weight_zero: bool = True
    per_channel: bool = False
    floats: bool = True
    signed_late: bool = True
    channel_late: bool = True
    short_as_fast: bool = False
    align: int = 1


    @property
    def shorts(self) -> frozenset[str]:
        """The types of 16 bits that activations may have."""
        return self.activations & {"int16", "uint16"}


@dataclass(frozen=True)
class Violation:
    """What of a file breaks a rule.

    Attributes:
        rule: short and stable: "activation type", "constant type", "bias type", "zero point", "per channel", "float".
        what: a clause for the reader.
        node: the first node that does.
        count: how many do.
    """

    rule: str
    what: str
    node: str
    count: int


def violations(graph: Graph, rules: Rules) -> list[Violation]:
    """Where a file does not meet the rules, one entry for each kind; the same for a file of any exporter."""
    found: dict[tuple[str, str], list[str]] = {}
    for node in graph.nodes:
        for rule, what in _broken(graph, node, rules):
            found.setdefault((rule, what), []).append(label(node))
    return [Violation(rule, what, at[0], len(at)) for (rule, what), at in found.items()]


def _broken(graph: Graph, node: NodeProto, rules: Rules) -> Iterator[tuple[str, str]]:
    if not is_op(node, "QuantizeLinear", "DequantizeLinear"):
        if not rules.floats and _in_float(graph, node):
            yield "float", f"a {node.op_type} runs in float"
        return
    q = read_quantizer(graph, node)
    constant = graph.is_constant(node.input[0])
    if not isinstance(q, Quantizer):
        yield ("constant type" if constant else "activation type"), q.message
        return
    stored = graph.initializers.get(node.input[0])  # without a zero point, its type says which integers they are
    kind = q.dtype.name if stored is None else _name(stored.data_type, q)
    if not constant:
        yield from _activation(q, kind, rules)
    elif kind == "int32":
        if kind not in rules.biases:
            yield "bias type", f"a bias is {kind}"
    else:
        if kind not in rules.weights and kind not in rules.biases:
            yield "constant type", f"a constant is {kind}"
        if rules.weight_zero and np.any(q.zero_point != _middle(kind)):
            yield "zero point", "a constant's zero point is not in the middle of its range"


def _name(element: int, q: Quantizer) -> str:
    """The name of a stored type; of the integers of its quantizer, where it is float."""
    name = np.dtype(helper.tensor_dtype_to_np_dtype(element)).name
    return q.dtype.name if "float" in name else name


def _activation(q: Quantizer, kind: str, rules: Rules) -> Iterator[tuple[str, str]]:
    if kind not in rules.activations:
        yield "activation type", f"an activation is {kind}"
    if rules.zero_points is not None and not {*q.zero_point.reshape(-1).tolist()} <= rules.zero_points:
        allowed = " or ".join(map(str, sorted(rules.zero_points)))
        yield "zero point", f"an activation's zero point is not {allowed}"
    if not rules.per_channel and q.scale.size > 1:
        yield "per channel", "an activation has a step for each channel"


def _middle(kind: str) -> int:
    """The zero point of a symmetric grid: an unsigned type's lies in its middle."""
    return {"uint8": 128, "uint4": 8, "uint2": 2, "uint16": 1 << 15}.get(kind, 0)


def _in_float(graph: Graph, node: NodeProto) -> bool:
    """Whether a node reads or writes an activation that no quantizer stands at."""
    if is_op(node, "Constant", *SHAPED) or all(graph.is_constant(t) for t in node.input if t):
        return False
    read = [t for t in node.input if t and not graph.is_constant(t)]
    return not (all(_whole(graph, t) for t in read) and all(_leaves(graph, t) for t in node.output if t))


def _whole(graph: Graph, tensor: str) -> bool:
    """Whether a tensor comes from integers: dequantized, themselves, or by an operator whose activation is fused."""
    source = graph.producer.get(tensor)
    if source is None:
        return False
    return is_op(source, "DequantizeLinear") or _integer(graph, tensor) or _fuses(graph, tensor)


def _integer(graph: Graph, tensor: str) -> bool:
    """Whether a tensor holds the integers of a quantizer, or what only moves or clips them."""
    source = graph.producer.get(tensor)
    while source is not None and not is_op(source, "QuantizeLinear", "DequantizeLinear", *SHAPED):
        moved = [t for t in source.input[:1] if not graph.is_constant(t)]
        source = graph.producer.get(moved[0]) if moved else None
    return is_op(source, "QuantizeLinear", *SHAPED)


def _fuses(graph: Graph, tensor: str) -> bool:
    """Whether the one reader of a tensor is an activation function in front of a quantizer."""
    readers = graph.readers(tensor)
    alone = len(readers) == 1 and tensor not in graph.outputs and is_op(readers[0], *FUSED)
    return alone and _leaves(graph, str(readers[0].output[0]))


def _leaves(graph: Graph, tensor: str) -> bool:
    """Whether nobody reads a tensor but quantizers, perhaps behind one fused activation, or it is integers."""
    if _integer(graph, tensor):
        return True
    readers = graph.readers(tensor)
    if tensor in graph.outputs or not readers:
        return False
    return all(is_op(n, "QuantizeLinear") for n in readers) or _fuses(graph, tensor)
