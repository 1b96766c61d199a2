"""The constant that copies of a whole range stand at: what a layer that reads them must have taken out of its bias.

A layer without padding adds up, for every copy, where it stands times its weight's sum over the kernel: a whole number
of steps s_x * s_w, in which integer biases count.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.nodes import Array, attribute, is_op
from onnx_ocs.qdq.bias import Bias
from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.verification.values import Differs, Wide

__all__ = ["taken_out"]

TIED = 1e-6  # how far a bias's scale may be from s_x * s_w


def taken_out(node: NodeProto, weight: Array, w: Quantizer | None, bias: Bias, wide: Wide, factors: Array) -> Bias:
    """A layer's bias without the constant of the copies that it reads.

    Args:
        node: the layer in the original.
        weight: its weight's values there.
        w: its weight's quantizer there.
        bias: its bias, which counts in the input's step as it is now; zeros with a scale where it had none.
        wide: what it reads.
        factors: by what the steps of its weight's channels have grown, shape () or (outputs,).

    Raises:
        Differs: it cannot take the constant.
    """
    q = wide.grid
    if w is None or q is None or q.scale.size != 1:
        raise Differs("it reads copies of a whole range, and steps of its input or its weight are not known")
    if not _everywhere(node, weight.shape):
        raise Differs("it reads copies of a whole range, and pads")
    upright = is_op(node, "Conv") or bool(attribute(node, "transB", 0))
    rows = weight.astype(np.float64) if upright else weight.astype(np.float64).T
    rows = rows.reshape(*rows.shape[:2], -1)
    steps = np.broadcast_to(w.scale, (len(rows),))
    grown = np.broadcast_to(factors, (len(rows),))
    integers = np.rint(np.rint(rows / steps[:, None, None]) / grown[:, None, None]).sum(2)
    at_rest = np.where(wide.level > 0, q.qmin - q.zero_point, np.where(wide.level < 0, q.qmax - q.zero_point, 0))
    constant = integers @ np.bincount(wide.origin, at_rest, wide.narrow)
    if bias.kind == "float":
        value = bias.value.astype(np.float64) - constant * (w.scale * q.scale)
        return replace(bias, value=value.astype(bias.value.dtype))
    if bias.scale is None or not np.allclose(bias.scale, q.scale * (w.scale * factors), rtol=TIED, atol=0):
        raise Differs("it reads copies of a whole range, and its bias does not count in its accumulator's steps")
    value = bias.value.astype(np.float64) - constant
    if np.abs(value).max(initial=0) > np.iinfo(bias.value.dtype).max:
        raise Differs("its bias does not hold the constant of its copies")
    return replace(bias, value=value.astype(bias.value.dtype))


def _everywhere(node: NodeProto, shape: tuple[int, ...]) -> bool:
    """Whether every output adds up all of the weight, once."""
    if is_op(node, "Gemm"):
        factors = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
        return factors == (1.0, 1.0) and not attribute(node, "transA", 0)
    if not is_op(node, "Conv") or int(attribute(node, "group", 1)) != 1:
        return False
    point = all(k == 1 for k in shape[2:])
    same = attribute(node, "auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER")
    return not any(attribute(node, "pads") or ()) and (point or not same)
