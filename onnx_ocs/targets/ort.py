"""What onnxruntime demands: which layers it runs on integer kernels, and what costs them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

import onnx
import onnxruntime as ort

from onnx_ocs.model import sizes
from onnx_ocs.model.nodes import attribute
from onnx_ocs.model.staging import scratch
from onnx_ocs.runtime.instrument import expose
from onnx_ocs.runtime.names import rename, shorten
from onnx_ocs.runtime.session import RUN_ERRORS, SMALL, serialized, session_options

__all__ = ["INTEGER_KERNELS", "fast_kernels", "integer_kernels", "kernel_outputs", "optimized", "without_kernels"]


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


INTEGER_KERNELS = frozenset({
    "QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul", "QLinearConvTranspose",
})  # fmt: skip
UNREAD = "weights"  # file to which onnxruntime writes the weights of a graph that is asked for


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
    """The graph that onnxruntime runs at ENABLE_ALL, without its weights; None when it does not load the model."""
    model, short = shorten(model)
    with scratch() as folder:
        options = session_options("enable_all", True, sizes.rough_size(model, SMALL), precise=False)
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
