"""A small post-training quantizer: float ONNX model in, low-bit QDQ model (QCDQ dialect) out.

    python models/quantizers/lowbit.py IN.onnx OUT.onnx --calib CALIB.npz --act-bits 2 --weight-bits 8

It exists to make example models for onnx_ocs and knows three layers with a constant weight: Conv, Gemm and MatMul.

    activation  x -> QuantizeLinear -> Clip(qmin, qmax) on the integers -> DequantizeLinear, per tensor, zero point 0;
                the Clip is left out at 8 bits.  One chain for each tensor that feeds a layer, read by all of the
                tensor's consumers, so that a residual Add sees what the Conv beside it sees.
                uint8 where calibration saw no negative value, else int8.
    weight      int8 values in [-(2^(b-1)-1), 2^(b-1)-1] -> DequantizeLinear, a scale for every output channel
    bias        int32 -> DequantizeLinear with scale s_x * s_w, the product taken in float32
    the rest    stays float

Each scale minimizes the squared error.  Layers with no layer before them, or none after them, get `edge_bits`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

__all__ = ["quantize"]

Array = npt.NDArray[Any]
BINS = 4096  # resolution of the activation histograms
BATCH = 32  # calibration samples a run


class Layer(NamedTuple):
    """A node with a constant weight, and what is needed to quantize it."""

    node: onnx.NodeProto
    axis: int  # of the output channels in the weight
    weight: Array
    bias: Array | None
    is_edge: bool  # no layer before it, or none after it


class Grid(NamedTuple):
    """An integer range and its step: the values `scale * [low .. high]`."""

    scale: np.float32
    low: int
    high: int

    @property
    def dtype(self) -> type[np.uint8] | type[np.int8]:
        """Storage type of the integers."""
        return np.int8 if self.low < 0 else np.uint8

    @property
    def fills_dtype(self) -> bool:
        """Whether the range is the whole range of the storage type (then saturation does the clipping)."""
        info = np.iinfo(self.dtype)
        return (self.low, self.high) == (info.min, info.max)


def quantize(
    model: onnx.ModelProto,
    calib: Mapping[str, Array],
    act_bits: int,
    weight_bits: int = 8,
    edge_bits: int = 8,
    only: Collection[str] | None = None,
) -> onnx.ModelProto:
    """Quantize a float model.

    Args:
        model: float32 model, opset 13 or later, weights as initializers; it is not changed.
        calib: for each model input an array with the samples on its first axis.
        act_bits: bits (2 to 8) of the activations that feed a layer.
        weight_bits: bits (2 to 8) of the weights.
        edge_bits: bits of weight and input activation of the first and the last layers.
        only: names of the nodes to quantize; None: all that can be.

    Returns:
        The QDQ model; it has passed `onnx.checker` with full shape inference.

    Raises:
        ValueError: the model's opset is too old, a node holds a subgraph, or there is nothing to quantize.
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < 13:
        raise ValueError(f"opset {opset} has no per-channel DequantizeLinear; convert the model to opset 13 or later")
    if any(attribute.type == onnx.AttributeProto.GRAPH for node in model.graph.node for attribute in node.attribute):
        raise ValueError("models with subgraphs (If, Loop, Scan) are not supported")
    _name_nodes(model.graph)
    layers = {x.node.name: x for x in _find_layers(model.graph) if only is None or x.node.name in only}
    if not layers:
        raise ValueError("no Conv, Gemm or MatMul with a constant weight: nothing to quantize")

    bits: dict[str, int] = {}
    for layer in layers.values():  # of several demands on one tensor the widest wins
        tensor = layer.node.input[0]
        bits[tensor] = max(bits.get(tensor, 0), edge_bits if layer.is_edge else act_bits)
    histograms = _histograms(model, calib, list(bits))
    grids = {tensor: _activation_grid(*histograms[tensor], bits[tensor]) for tensor in bits}

    _insert(model.graph, layers, grids, weight_bits, edge_bits)
    model.producer_name, model.producer_version = "onnx_ocs models/lowbit.py", ""
    onnx.checker.check_model(model, full_check=True)
    return model


def _insert(
    graph: onnx.GraphProto, layers: Mapping[str, Layer], grids: Mapping[str, Grid], weight_bits: int, edge_bits: int
) -> None:
    """Put the quantizers into the graph, and let the layers read them."""
    nodes: list[onnx.NodeProto] = []
    for value in graph.input:
        if value.name in grids:
            nodes += _chain(graph, value.name, grids[value.name])
    for node in graph.node:
        data_inputs = list(node.input)
        if node.name in layers:
            layer = layers[node.name]
            step = grids[node.input[0]].scale
            nodes += _quantize_parameters(graph, layer, step, edge_bits if layer.is_edge else weight_bits)
        for position, tensor in enumerate(data_inputs):
            if tensor in grids:
                node.input[position] = f"{tensor}_dequantized"
        nodes.append(node)
        for tensor in node.output:
            if tensor in grids:
                nodes += _chain(graph, tensor, grids[tensor])

    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    used = {tensor for node in nodes for tensor in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node without a name of its own one that is unique."""
    taken: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.name or node.op_type}_{index}"
        taken.add(node.name)


def _channel_axis(node: onnx.NodeProto) -> int | None:
    """Axis of the output channels in the node's weight; None if this is no node to quantize."""
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    if node.op_type == "Gemm":
        is_plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0 and not attributes.get("transA")
        return (0 if attributes.get("transB") else 1) if is_plain else None
    return {"Conv": 0, "MatMul": 1}.get(node.op_type)


def _find_layers(graph: onnx.GraphProto) -> list[Layer]:
    """The nodes that are quantized, in graph order."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found: list[Layer] = []
    for node in graph.node:
        axis = _channel_axis(node)
        if axis is None or node.input[0] in constants or node.input[1] not in constants:
            continue
        weight = constants[node.input[1]]
        bias_name = node.input[2] if len(node.input) > 2 else ""
        bias = constants.get(bias_name)
        if node.op_type == "MatMul" and weight.ndim != 2:
            continue
        if bias_name and (bias is None or bias.shape != (weight.shape[axis],)):
            continue
        found.append(Layer(node, axis, weight, bias, is_edge=False))

    names = {layer.node.name for layer in found}
    fed: set[str] = set()  # tensors with a layer upstream
    for node in graph.node:
        if node.name in names or fed.intersection(node.input):
            fed.update(node.output)
    feeding: set[str] = set()  # tensors with a layer downstream
    for node in reversed(graph.node):
        if node.name in names or feeding.intersection(node.output):
            feeding.update(node.input)
    return [
        layer._replace(is_edge=layer.node.input[0] not in fed or layer.node.output[0] not in feeding) for layer in found
    ]


def _histograms(
    model: onnx.ModelProto, calib: Mapping[str, Array], tensors: list[str]
) -> dict[str, tuple[Array, Array]]:
    """Bin edges and counts of each tensor over the calibration data: one run for the ranges, one for the counts."""
    probe = onnx.ModelProto.FromString(model.SerializeToString())
    known = {value.name for value in (*probe.graph.input, *probe.graph.output)}
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors if name not in known)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others may share the machine
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    samples = min(len(array) for array in calib.values())

    edges: dict[str, Array] = {}
    low, high = dict.fromkeys(tensors, np.inf), dict.fromkeys(tensors, -np.inf)
    counts = {name: np.zeros(BINS) for name in tensors}
    for counting in (False, True):
        for start in range(0, samples, BATCH):
            values = {name: array[start : min(start + BATCH, samples)] for name, array in calib.items()}
            values |= dict(zip(outputs, session.run(outputs, values), strict=True))
            for name in tensors:
                if counting:
                    counts[name] += np.histogram(values[name], edges[name])[0]
                    continue
                low[name] = min(low[name], float(values[name].min()))
                high[name] = max(high[name], float(values[name].max()))
        if not counting:
            edges = {name: np.linspace(low[name], max(high[name], low[name] + 1e-6), BINS + 1) for name in tensors}
    return {name: (edges[name], counts[name]) for name in tensors}


def _activation_grid(edges: Array, counts: Array, bits: int) -> Grid:
    """The grid of least squared error for values distributed like the histogram."""
    low, high = (0, 2**bits - 1) if edges[0] >= 0 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    widest = max(edges[-1] / high, edges[0] / low if low else 0.0, 1e-8)
    centres = (edges[:-1] + edges[1:]) / 2

    def error(scale: float) -> float:
        rounded = scale * np.clip(np.rint(centres / scale), low, high)
        return float(counts @ (rounded - centres) ** 2)

    coarse = min(widest * np.geomspace(1 / 32, 1, 101), key=error)  # steps of 3.5 %
    return Grid(np.float32(min(coarse * np.linspace(0.965, 1.035, 71), key=error)), low, high)


def _quantize_weight(weight: Array, axis: int, bits: int, smallest: Array | float) -> tuple[Array, Array]:
    """int8 values and float32 scales of least squared error for each slice along `axis`; no scale below `smallest`."""
    high = 2 ** (bits - 1) - 1
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
    shrink = np.linspace(1.0, 0.3, 141)
    widest = np.maximum(np.abs(rows).max(axis=1), 1e-12) / high
    errors = []
    for factor in shrink:
        step = (factor * widest)[:, None]
        errors.append(((np.clip(np.rint(rows / step), -high, high) * step - rows) ** 2).sum(axis=1))
    scale = np.maximum(widest * shrink[np.argmin(errors, axis=0)], smallest).astype(np.float32)
    along_axis = scale.reshape([-1 if position == axis else 1 for position in range(weight.ndim)])
    return np.clip(np.rint(weight / along_axis), -high, high).astype(np.int8), scale


def _constant(graph: onnx.GraphProto, name: str, value: Array | np.generic) -> str:
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def _chain(graph: onnx.GraphProto, tensor: str, grid: Grid) -> list[onnx.NodeProto]:
    """The nodes that make `<tensor>_dequantized` from `tensor`."""
    scale = _constant(graph, f"{tensor}_scale", grid.scale)
    zero = _constant(graph, f"{tensor}_zero_point", grid.dtype(0))
    integers = f"{tensor}_quantized"
    nodes = [helper.make_node("QuantizeLinear", [tensor, scale, zero], [integers], f"{tensor}/QuantizeLinear")]
    if not grid.fills_dtype:
        low = _constant(graph, f"{tensor}_qmin", grid.dtype(grid.low))
        high = _constant(graph, f"{tensor}_qmax", grid.dtype(grid.high))
        nodes.append(helper.make_node("Clip", [integers, low, high], [f"{tensor}_clipped"], f"{tensor}/Clip"))
        integers = f"{tensor}_clipped"
    output = f"{tensor}_dequantized"
    nodes.append(helper.make_node("DequantizeLinear", [integers, scale, zero], [output], f"{tensor}/DequantizeLinear"))
    return nodes


def _quantize_parameters(graph: onnx.GraphProto, layer: Layer, step: np.float32, bits: int) -> list[onnx.NodeProto]:
    """Point the layer at integer weight and bias; the DequantizeLinear nodes of both."""
    node, name = layer.node, layer.node.name
    smallest = 0.0 if layer.bias is None else np.abs(layer.bias) / (float(step) * 2**30)  # the bias has to fit in int32
    values, scale = _quantize_weight(layer.weight, layer.axis, bits, smallest)
    parameters = [("weight", 1, values, scale, layer.axis)]
    if layer.bias is not None:
        bias_scale = step * scale
        bias = np.rint(layer.bias.astype(np.float64) / bias_scale).astype(np.int32)
        parameters.append(("bias", 2, bias, bias_scale, 0))
    nodes = []
    for kind, position, integers, scales, axis in parameters:
        stored = {"quantized": integers, "scale": scales}
        if kind == "weight":
            stored["zero_point"] = np.zeros(len(scales), np.int8)
        inputs = [_constant(graph, f"{name}/{kind}_{role}", value) for role, value in stored.items()]
        output = f"{name}/{kind}_dequantized"
        nodes.append(helper.make_node("DequantizeLinear", inputs, [output], f"{name}/{kind}/Dequantize", axis=axis))
        node.input[position] = output
    return nodes


def main() -> int:
    """Command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("input", type=Path, metavar="IN", help="float ONNX model")
    parser.add_argument("output", type=Path, metavar="OUT", help="quantized ONNX model to write")
    parser.add_argument("--calib", type=Path, required=True, help=".npz, an array for each model input, samples first")
    for option in ("--act-bits", "--weight-bits", "--edge-bits"):
        parser.add_argument(option, type=int, default=8, choices=range(2, 9), metavar="B", help="2 to 8, default 8")
    args = parser.parse_args()
    model = onnx.load(args.input)
    with np.load(args.calib) as archive:
        calib = {value.name: archive[value.name] for value in model.graph.input if value.name in archive}
    quantized = quantize(model, calib, args.act_bits, args.weight_bits, args.edge_bits)
    args.output.write_bytes(quantized.SerializeToString(deterministic=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
