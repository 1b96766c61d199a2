"""Who can absorb gains: constants in front of a quantizer, and the weights of all that reads it.

    Mul(x, gamma) -> Q DQ -> MatMul with W        gamma * g  and  W / g, row by row: the same function

Channel c of the tensor becomes g[c] times what it was.  In front of the quantizer, everything up to the constants that
take the gains in must be linear in a positive factor (ReLU, pools, a product), and nobody else may read what lies
between.  Such constants are the weight and bias of a layer, scale and bias of a normalization, or a vector that is
multiplied or added.  Behind it, layers with a constant quantized weight alone may read the tensor.  This is
cross-layer equalization (Nagel et al. 2019) and SmoothQuant (Xiao et al. 2023), on a finished file.

    LayerNormalization -> Q DQ -> MatMul, Add     LayerNormalization -> Mul(g) -> Q DQ -> MatMul;  and -> Add

Where nothing in front can, behind a GELU, or where a residual sum reads the tensor too, a product of its own does: it
costs a pass over the tensor.  The sum then reads the floats that the quantizer read.  Where an integer kernel writes
the tensor, or reads it otherwise than a layer, that would cost the kernel, and is not done.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import attribute, is_op
from onnx_ocs.qdq.layers import Layer, read_layer
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.qdq.weights import read_weight, scales_apart
from onnx_ocs.regions.region import Quantized, Region

__all__ = ["Absorbing", "Operand", "absorbing", "inserting"]

HOMOGENEOUS = ("Relu", "LeakyRelu", "Identity", "Dropout")
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")  # over the last axes
LAST = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")  # channels along the last axis
SECOND = ("BatchNormalization", "InstanceNormalization")  # and along the second
FLOAT = (  # onnxruntime has no integer operators for these
    "Gelu", "FastGelu", "BiasGelu", "QuickGelu", "Tanh", "HardSwish", "Elu", "Mish", "Div", "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
)  # fmt: skip
CHAIN = ("DequantizeLinear", "QuantizeLinear", "Transpose")  # what may stand behind a constant
FAR = 12  # most nodes between a quantizer and the constants
DEEP = 2  # most products of two tensors between them


@dataclass(frozen=True, eq=False)
class Operand:
    """A constant that is multiplied with the gains.

    Attributes:
        node: who reads it.
        index: at which input.
        axis: its channel axis.
    """

    node: NodeProto
    index: int
    axis: int


@dataclass(frozen=True, eq=False)
class Absorbing:
    """A quantized tensor whose channels may have gains.

    Attributes:
        region: the tensor's.
        axis: its channel axis, counted from the end.
        channels: how many it has.
        sources: what is multiplied; none: a product of its own is put in front of the quantizer.
        layers: whose weights are divided.
        others: who else reads the tensor behind the quantizer, and will read it in front.
    """

    region: Region
    axis: int
    channels: int
    sources: tuple[Operand, ...]
    layers: tuple[Layer, ...]
    others: tuple[NodeProto, ...] = ()


def absorbing(graph: Graph, region: Quantized) -> Absorbing | None:
    """A region as a tensor that may have gains for nothing; None where somebody could not absorb them."""
    found = _read(graph, region)
    if found is None or found.others or not _alone(graph, found.region.tensor, found.region.nodes):
        return None
    second = found.axis != -1 or all(x.kind == "Gemm" for x in found.layers)
    sources = _sources(graph, region.tensor, found.axis, found.channels, FAR, DEEP, second)
    return replace(found, sources=tuple(sources)) if sources else None


def inserting(graph: Graph, region: Quantized) -> Absorbing | None:
    """A region as a tensor that may have gains by a product of its own; None where that would cost integer kernels."""
    found = _read(graph, region)
    if found is None or graph.is_constant(region.tensor) or region.tensor in graph.inputs:
        return None
    acts = found.region.quantizer.rectifies and region.bounds[0] < 0
    if _integer(graph, region.tensor) or (found.others and acts):
        return None
    return found if all(_in_float(graph, n) for n in found.others) else None


def _read(graph: Graph, region: Quantized) -> Absorbing | None:
    """What reads a region whose channels may have gains."""
    if not isinstance(region, Region) or region.quantizer.scale.size != 1 or region.folded:
        return None
    layers, others = _readers(graph, region)
    axes = {1 - len(x.weight.shape) if x.slides else -1 for x in layers}
    channels = {x.inputs for x in layers}
    if len(axes) != 1 or len(channels) != 1:
        return None
    return Absorbing(region, axes.pop(), channels.pop(), (), tuple(layers), tuple(others))


def _in_float(graph: Graph, node: NodeProto) -> bool:
    """Whether a reader is a sum or a normalization of floats: no quantizer stands behind it."""
    if not is_op(node, "Add", *LAST, *SECOND):
        return False
    return not any(is_op(r, "QuantizeLinear") for o in node.output if o for r in graph.readers(o))


def _integer(graph: Graph, tensor: str) -> bool:
    """Whether an integer kernel may write a tensor to a quantizer: what makes it reads integers, and may have one."""
    n = graph.producer.get(tensor)
    if n is not None and n.op_type in (*LAST, *FLOAT):
        return False
    while is_op(n, "Relu", "LeakyRelu", "Clip", "Identity") and n is not None:
        n = graph.producer.get(n.input[0])
    if n is None:
        return True
    read = [graph.producer.get(t) for t in n.input if t and not graph.is_constant(t)]
    return any(is_op(p, "DequantizeLinear") for p in read)


def _alone(graph: Graph, tensor: str, readers: tuple[NodeProto, ...]) -> bool:
    """Whether nobody but these nodes reads a tensor."""
    if tensor in graph.outputs or graph.captured(tensor) or graph.is_constant(tensor):
        return False
    return {id(n) for n in graph.readers(tensor)} == {id(n) for n in readers}


# ---- behind ---------------------------------------------------------------------------------------------------------


def _readers(graph: Graph, region: Region) -> tuple[list[Layer], list[NodeProto]]:
    """The layers that read a region's tensor and can be divided, each once, and who else does.

    No layers where somebody reads the integers, or takes them for other values, or the tensor leaves the graph.
    """
    layers: dict[int, Layer] = {}
    others: dict[int, NodeProto] = {}
    stack = [(str(n.output[0]), True) for n in region.nodes]
    while stack:
        t, integers = stack.pop()
        if t in graph.outputs or graph.captured(t):
            return [], []
        for r in graph.readers(t):
            if integers and is_op(r, "Clip", "DequantizeLinear") and r.input[0] == t:
                d = read_quantizer(graph, r) if is_op(r, "DequantizeLinear") else region.quantizer
                if not isinstance(d, Quantizer) or not d.same_parameters(region.quantizer):
                    return [], []
                stack.append((str(r.output[0]), is_op(r, "Clip")))
                continue
            layer = read_layer(graph, r)
            if integers or [*r.input].count(t) > 1:
                return [], []
            if layer is not None and r.input[0] == t and _divisible(graph, layer):
                layers[id(r)] = layer
            else:
                others[id(r)] = r
    return list(layers.values()), list(others.values())


def _divisible(graph: Graph, layer: Layer) -> bool:
    """Whether a layer's weight is integers of one step, or of one step an output, that each input can be divided in."""
    node, weight = layer.node, layer.weight
    if layer.kind == "ConvTranspose" or attribute(node, "transA", 0) or (layer.kind == "MatMul" and layer.into != 0):
        return False
    ops = [n.op_type for n in weight.nodes if n.op_type != "Transpose"]
    root = graph.constant(weight.root)
    if root is None or ops not in (["DequantizeLinear"], ["DequantizeLinear", "QuantizeLinear"]):
        return False
    if (root.dtype.kind == "f") != (len(ops) == 2) or root.dtype == np.float16:
        return False
    q = weight.quantizer(graph)
    if q is None or (q.axis is not None and q.axis != layer.out) or q.float_dtype != np.float32:
        return False
    bias = layer.bias(graph)
    if bias is None or bias.dequantize is None:
        return bias is not None
    return (graph.constant_shape(bias.dequantize.input[0]) or ())[-1:] == (layer.outputs,)


# ---- in front -------------------------------------------------------------------------------------------------------


def _sources(
    graph: Graph, tensor: str, axis: int, channels: int, far: int, deep: int, second: bool
) -> list[Operand]:
    """The constants in front of a tensor that take its gains in; none where there are none.

    Args:
        graph: the graph.
        tensor: the tensor.
        axis: its channel axis, from the end.
        channels: how many it has.
        far: most nodes that are passed.
        deep: most products of two tensors that are passed.
        second: whether the axis is known to be the second one, which is some normalizations' axis of channels.
    """
    n = graph.producer.get(tensor)
    if n is None or not far or len([o for o in n.output if o]) > 1 or graph.is_constant(tensor):
        return []

    def further(t: str, products: int = deep, rank: int = 0) -> list[Operand]:
        same = second and products == deep and rank <= -axis  # a factor, or a term, may have fewer axes
        return _sources(graph, t, axis, channels, far - 1, products, same) if _alone(graph, t, (n,)) else []

    if is_op(n, *HOMOGENEOUS) or (is_op(n, *POOLS) and axis != -1):
        return further(str(n.input[0]))
    if is_op(n, *LAST, *SECOND):
        fits = axis == -1 if is_op(n, *LAST) else second
        return _norm(graph, n, channels) if fits else []
    layer = read_layer(graph, n)
    if layer is not None:
        return _layer(graph, layer, axis, channels)
    if not is_op(n, "Mul", "Add") or len(n.input) != 2 or n.input[0] == n.input[1]:
        return []
    constants = [k for k in (0, 1) if graph.is_constant(n.input[k])]
    if len(constants) == 1:
        k = constants[0]
        own, rank = _vector(graph, n, k, axis, channels), len(graph.constant_shape(n.input[k]) or ())
        if is_op(n, "Mul"):
            value = None if own else graph.constant(n.input[k])
            one = value is not None and value.size == 1
            return [own] if own else further(str(n.input[1 - k]), rank=rank) if one else []
        rest = further(str(n.input[1 - k]), rank=rank) if own else []
        return [own, *rest] if own and rest else []
    if is_op(n, "Mul") and not constants and deep:
        for k in (0, 1):  # either factor may take them
            if found := further(str(n.input[k]), deep - 1):
                return found
    return []


def _operand(graph: Graph, node: NodeProto, index: int, axis: int) -> Operand | None:
    """A constant of which each channel can be multiplied with a power of two exactly."""
    weight = read_weight(graph, node, index)
    if weight is None or not all(is_op(n, *CHAIN) and graph.private(n.output[0]) for n in weight.nodes):
        return None
    if weight.nodes and [*node.input].count(node.input[index]) > 1:
        return None  # once for each place where it is read
    return Operand(node, index, axis) if scales_apart(graph, node, index, axis) else None


def _vector(graph: Graph, node: NodeProto, index: int, axis: int, channels: int) -> Operand | None:
    """A constant with one value for each channel, along the tensor's channel axis."""
    weight = read_weight(graph, node, index)
    if weight is None or len(weight.shape) + axis < 0 or weight.shape[axis] != channels:
        return None
    return _operand(graph, node, index, len(weight.shape) + axis) if np.prod(weight.shape) == channels else None


def _norm(graph: Graph, node: NodeProto, channels: int) -> list[Operand]:
    """Scale and bias of a normalization, where there is one value for each channel."""
    found = [_vector(graph, node, k, -1, channels) for k in (1, 2) if len(node.input) > k and node.input[k]]
    return [f for f in found if f is not None] if all(found) else []


def _layer(graph: Graph, layer: Layer, axis: int, channels: int) -> list[Operand]:
    """Weight and bias of a layer whose outputs are the channels."""
    node = layer.node
    own = 1 - len(layer.weight.shape) if layer.slides else -1
    if layer.outputs != channels or own != axis or layer.kind == "ConvTranspose":
        return []
    weight = _operand(graph, node, 1, layer.out)
    if weight is None or (layer.kind == "MatMul" and len(layer.weight.shape) != 2):
        return []
    if layer.kind == "MatMul" or len(node.input) < 3 or not node.input[2]:
        return [weight]
    bias = read_weight(graph, node, 2)
    if bias is None or bias.shape != (channels,):
        return []
    operand = _operand(graph, node, 2, 0)
    return [weight, operand] if operand else []
