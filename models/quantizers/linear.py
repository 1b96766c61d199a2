"""Quantizers of a decoder's linear layers: what is usual for language models.

Quantized are the MatMul nodes with a constant weight, each with its input; float stay the embedding, the layer whose
output is the model's (the head), norms, attention between tokens, and whatever the layers give.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx

from models.quantizers import lowbit
from models.quantizers.registry import quantize_static

__all__ = ["linear_layers", "quantize_lowbit", "quantize_onnxruntime"]

Array = npt.NDArray[Any]


def linear_layers(model: onnx.ModelProto) -> list[str]:
    """Names of the MatMul nodes with a constant weight that are not the model's last."""
    stored = {t.name for t in model.graph.initializer}
    given = {o.name for o in model.graph.output}
    return [
        n.name
        for n in model.graph.node
        if n.op_type == "MatMul" and n.input[1] in stored and n.input[0] not in stored and n.output[0] not in given
    ]


def quantize_onnxruntime(float_model: Path, out: Path, samples: dict[str, Array], symmetric: bool = False) -> None:
    """W8A8 by onnxruntime: QDQ, weights int8 per channel, inputs uint8 from the smallest to the largest value.

    Args:
        float_model: the model.
        out: where the quantized one goes.
        samples: an array for each input.
        symmetric: whether inputs are int8 with zero-point 0 instead, as many runtimes want them.
    """
    quantize_static(
        float_model,
        out,
        samples,
        activations="QInt8" if symmetric else "QUInt8",
        extra={"OpTypesToExcludeOutputQuantization": ["MatMul"], "ActivationSymmetric": symmetric},
        op_types_to_quantize=["MatMul"],
        nodes_to_quantize=linear_layers(onnx.load(float_model)),
    )


def quantize_lowbit(float_model: Path, out: Path, samples: dict[str, Array], weight_bits: int) -> None:
    """8-bit inputs and weights of few bits by `models.quantizers.lowbit`; the first layers' weights have 8."""
    model = onnx.load(float_model)
    quantized = lowbit.quantize(model, samples, 8, weight_bits, only=linear_layers(model))
    out.write_bytes(quantized.SerializeToString(deterministic=True))
