"""What onnxruntime demands: which operators it runs on integers, and what costs it one.

Its optimizer fuses Q, DQ and what stands between them to integer operators: layers (QLinearConv, MatMulInteger, ...),
and all else (QLinearAdd, QLinearMul, QLinearConcat, pools, ...).  Convs and pools then compute with the channels last,
with a Transpose wherever something else reads or writes their tensors.  A rewrite can cost each of these, and what it
costs is read off the optimized graph, never guessed.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import onnx
import onnxruntime as ort

from onnx_ocs.model import sizes
from onnx_ocs.model.nodes import attribute
from onnx_ocs.model.staging import scratch
from onnx_ocs.model.tensors import has_side_files
from onnx_ocs.runtime.instrument import expose
from onnx_ocs.runtime.names import rename, shorten
from onnx_ocs.runtime.session import LARGE, RUN_ERRORS, SMALL, serialized, session_options
from onnx_ocs.targets.rules import Rules

__all__ = [
    "INTEGER_KERNELS", "RULES", "Operators", "fast_kernels", "integer_kernels", "integer_outputs", "kernel_outputs",
    "operators", "optimized", "without_kernels",
]  # fmt: skip

# all that it loads it computes; the figures say what is fast
_TYPES = frozenset({"int8", "uint8", "int16", "uint16", "int32", "int4", "uint4", "int2", "uint2"})
RULES = Rules("ort", activations=_TYPES, weights=_TYPES, weight_zero=False, per_channel=True)
INTEGER_KERNELS = frozenset({
    "QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul", "QLinearConvTranspose",
})  # fmt: skip
OTHERS = ("QLinear", "QAttention", "QEmbedLayerNormalization", "NhwcMaxPool")  # how others' names begin
POOL = "MaxPool"  # takes integers as well as floats, the Nhwc form integers only
MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "Concat", "Gather", "Split",
         "Clip", "Resize", "Pad", POOL)  # fmt: skip
KNOWN = 16  # optimized graphs that are remembered, without their weights: a plan tries as many models, twice
_KNOWN: dict[bytes, onnx.ModelProto | None] = {}
UNREAD = "weights"  # file to which onnxruntime writes the weights of a graph that is asked for


@dataclass(frozen=True)
class Operators:
    """What of an optimized graph takes time otherwise than its multiply-accumulates say.

    Attributes:
        layers: layers with a fast integer kernel (`fast_kernels`).
        others: all other integer operators, by kind.
        transposes: Transposes, most of them between operators that want the channels at different places.
    """

    layers: int
    others: Mapping[str, int]
    transposes: int

    @property
    def integer(self) -> int:
        """All integer operators."""
        return self.layers + sum(self.others.values())

    def lost(self, now: Operators) -> int:
        """How many integer operators are none any more, kind by kind."""
        others = sum(max(n - now.others.get(kind, 0), 0) for kind, n in self.others.items())
        return max(self.layers - now.layers, 0) + others

    def won(self, now: Operators) -> int:
        """How many more layers run on integers now; 0 where an operator was lost for it."""
        return 0 if self.lost(now) else max(now.layers - self.layers, 0)

    def between(self, now: Operators) -> int:
        """How many more Transposes there are now; each takes about as long as an operator."""
        return max(now.transposes - self.transposes, 0)


def operators(model: onnx.ModelProto) -> Operators | None:
    """What onnxruntime makes of a model at ENABLE_ALL; None where `optimized` is None."""
    run = optimized(model)
    if run is None:
        return None
    others = Counter(n.op_type.removeprefix("Nhwc") for n in _others(run))
    transposes = sum(n.op_type == "Transpose" for n in run.graph.node)
    return Operators(len(fast_kernels(run)), others, transposes)


def _others(run: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """The integer operators of an optimized graph that are no layers."""
    integers: set[str] = set()
    for n in run.graph.node:
        makes = n.op_type in INTEGER_KERNELS or n.op_type == "QuantizeLinear" or n.op_type.startswith(OTHERS)
        if makes or (n.op_type in MOVES and n.input and n.input[0] in integers):
            integers.update(n.output)
        pool = n.op_type == POOL and n.output[0] in integers
        if pool or (n.op_type not in INTEGER_KERNELS and n.op_type.startswith(OTHERS)):
            yield n


def integer_outputs(model: onnx.ModelProto) -> set[str]:
    """What the operators write that onnxruntime runs on integers, by the model's names; nothing where it does not load.

    With the channels last, which comes after these operators are made, most tensors have other names.
    """
    run = _optimized(model, ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED)
    return set() if run is None else fast_kernels(run) | {o for n in _others(run) for o in n.output}


def without_kernels(model: onnx.ModelProto, tensors: Sequence[str]) -> set[str]:
    """Those float tensors that only exist because somebody reads them: without, their layers run on integers.

    Args:
        model: the model.
        tensors: what layers write, or activation functions behind layers.
    """
    run = optimized(model)
    if run is None:
        return set()
    written = {o for n in run.graph.node for o in n.output}
    fused = [t for t in tensors if t not in written]
    whole = len(fast_kernels(run))

    def loss(read: Sequence[str]) -> int:
        left = integer_kernels(expose(model, read))
        return 0 if left is None else whole - left

    together = loss(fused)
    if together in (0, len(fused)):
        return set(fused) if together else set()
    return {t for t in fused if loss([t])}


def integer_kernels(model: onnx.ModelProto) -> int | None:
    """How many layers onnxruntime runs with integer kernels at ENABLE_ALL; None where `kernel_outputs` is None."""
    found = kernel_outputs(model)
    return None if found is None else len(found)


def kernel_outputs(model: onnx.ModelProto) -> set[str] | None:
    """What the layers write that onnxruntime runs with integer kernels at ENABLE_ALL.

    None where `optimized` is None.
    """
    found = optimized(model)
    return None if found is None else fast_kernels(found)


def fast_kernels(run: onnx.ModelProto) -> set[str]:
    """What the integer kernels of an optimized graph write.

    Those of grouped Convs with several channels a group do not count: they take far longer than that of the depthwise
    Conv that it may have been, or than a float one.
    """
    dims = {t.name: t.dims for t in run.graph.initializer}
    return {
        n.output[0]
        for n in run.graph.node
        if n.op_type in INTEGER_KERNELS and not (n.op_type == "QLinearConv" and _grouped(n, dims.get(n.input[3])))
    }


def _grouped(node: onnx.NodeProto, dims: Sequence[int] | None) -> bool:
    return bool(attribute(node, "group", 1) > 1) and dims is not None and dims[1] > 1


def optimized(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The graph that onnxruntime runs at ENABLE_ALL, without its weights; None when it does not load the model.

    It is nobody's to change: the same model is often asked about again.
    """
    if has_side_files(model) or sizes.rough_size(model, LARGE) >= LARGE:
        return _optimized(model)  # what is in its files may be something else by then
    key = hashlib.sha256(model.SerializeToString(deterministic=True)).digest()
    if key not in _KNOWN:
        _KNOWN[key] = _optimized(model)
        while len(_KNOWN) > KNOWN:
            del _KNOWN[next(iter(_KNOWN))]
    return _KNOWN[key]


def _optimized(
    model: onnx.ModelProto, level: ort.GraphOptimizationLevel = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
) -> onnx.ModelProto | None:
    model, short = shorten(model)
    with scratch() as folder:
        options = session_options("enable_all", True, sizes.rough_size(model, SMALL), precise=False)
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(folder / "optimized.onnx")
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", UNREAD)
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        with suppress(OSError):  # nobody reads the weights; without links they are written, and removed
            (folder / UNREAD).symlink_to(os.devnull)
        try:
            data, _kept = serialized(model, options)
            ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            found = onnx.load(options.optimized_model_filepath, load_external_data=False)
            rename(found, {now: name for name, now in short.items()})
            return found
        except RUN_ERRORS:
            return None
