"""Convolutions, pools, padding and resizing of ONNX in torch, for any number of spatial axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from onnx import NodeProto
from torch import Tensor
from torch.nn import functional

from onnx_ocs.errors import UserError
from onnx_ocs.model.nodes import Array, attribute, label

__all__ = ["OPERATORS"]

CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
MEAN = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def unknown(node: NodeProto, what: str) -> UserError:
    """A form of an operator that is not computed here."""
    return UserError(f"refinement does not know {what} ({node.op_type} '{label(node)}')")


def _ints(n: NodeProto, name: str, default: Sequence[int]) -> list[int]:
    return [int(v) for v in attribute(n, name, default)]


def _pads(n: NodeProto, size: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Padding before and behind each spatial axis, `auto_pad` resolved."""
    rank = len(kernel)
    pads = _ints(n, "pads", [0] * 2 * rank)
    auto = attribute(n, "auto_pad", b"NOTSET")
    if auto in (b"NOTSET", b"VALID"):
        return (pads[:rank], pads[rank:]) if auto == b"NOTSET" else ([0] * rank, [0] * rank)
    strides, dilations = _ints(n, "strides", [1] * rank), _ints(n, "dilations", [1] * rank)
    total = [
        max(0, (-(-s // t) - 1) * t + (k - 1) * d + 1 - s)
        for s, k, t, d in zip(size, kernel, strides, dilations, strict=True)
    ]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return (small, large) if auto == b"SAME_UPPER" else (large, small)


def _padded(x: Tensor, before: Sequence[int], behind: Sequence[int], value: float = 0.0) -> Tensor:
    if not any(before) and not any(behind):
        return x
    flat = [v for pair in zip(reversed(before), reversed(behind), strict=True) for v in pair]
    return functional.pad(x, flat, value=value)


def _conv(n: NodeProto, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    rank = w.ndim - 2
    if rank not in CONV:
        raise unknown(n, f"a convolution over {rank} axes")
    before, behind = _pads(n, x.shape[2:], w.shape[2:])
    padding: list[int] | int = before
    if before != behind:  # torch pads both sides alike
        x, padding = _padded(x, before, behind), 0
    options = {"stride": _ints(n, "strides", [1] * rank), "dilation": _ints(n, "dilations", [1] * rank)}
    return CONV[rank](x, w, b, padding=padding, groups=attribute(n, "group", 1), **options)


def _conv_transpose(n: NodeProto, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    rank = w.ndim - 2
    if rank not in TRANSPOSED:
        raise unknown(n, f"a transposed convolution over {rank} axes")
    strides, dilations = _ints(n, "strides", [1] * rank), _ints(n, "dilations", [1] * rank)
    more = _ints(n, "output_padding", [0] * rank)
    groups = attribute(n, "group", 1)
    y = TRANSPOSED[rank](x, w, b, strides, 0, 0, groups, dilations)
    y = _padded(y, [0] * rank, more) if b is None or not any(more) else _biased(y, b, more)
    auto, wanted = attribute(n, "auto_pad", b"NOTSET"), attribute(n, "output_shape")
    if wanted is not None or auto in (b"SAME_UPPER", b"SAME_LOWER"):
        sizes = wanted[-rank:] if wanted else [s * t for s, t in zip(x.shape[2:], strides, strict=True)]
        total = [max(0, full - size) for full, size in zip(y.shape[2:], sizes, strict=True)]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        before, behind = (small, large) if auto == b"SAME_UPPER" else (large, small)
    else:
        pads = _ints(n, "pads", [0] * 2 * rank)
        before, behind = (pads[:rank], pads[rank:]) if auto == b"NOTSET" else ([0] * rank, [0] * rank)
    return _padded(y, [-v for v in before], [-v for v in behind])


def _biased(y: Tensor, b: Tensor, more: Sequence[int]) -> Tensor:
    """Output padding holds the bias alone."""
    column = b.reshape(-1, *[1] * len(more))
    return _padded(y - column, [0] * len(more), more) + column


def _windows(n: NodeProto, x: Tensor, fill: float) -> tuple[Tensor, Tensor, list[int], list[int], list[int]]:
    """The padded input, a mask of what counts in a mean, kernel, strides and dilations of a pool."""
    kernel = _ints(n, "kernel_shape", ())
    rank = len(kernel)
    if rank not in MAX:
        raise unknown(n, f"a pool over {rank} axes")
    strides, dilations = _ints(n, "strides", [1] * rank), _ints(n, "dilations", [1] * rank)
    before, behind = _pads(n, x.shape[2:], kernel)
    mask = _padded(torch.ones(1, 1, *x.shape[2:]), before, behind, float(attribute(n, "count_include_pad", 0)))
    extra = [0] * rank
    if attribute(n, "ceil_mode", 0):
        for k in range(rank):
            size = x.shape[2 + k] + before[k] + behind[k]
            out = -(-(size - (kernel[k] - 1) * dilations[k] - 1) // strides[k]) + 1
            out -= (out - 1) * strides[k] >= x.shape[2 + k] + before[k]  # it would lie in the padding altogether
            extra[k] = max(0, (out - 1) * strides[k] + (kernel[k] - 1) * dilations[k] + 1 - size)
    x = _padded(x, before, [b + e for b, e in zip(behind, extra, strict=True)], fill)
    return x, _padded(mask, [0] * rank, extra), kernel, strides, dilations


def _max_pool(n: NodeProto, x: Tensor) -> Tensor:
    x, _, kernel, strides, dilations = _windows(n, x, -float("inf"))
    return MAX[len(kernel)](x, kernel, strides, 0, dilations)


def _average_pool(n: NodeProto, x: Tensor) -> Tensor:
    x, mask, kernel, strides, dilations = _windows(n, x, 0.0)
    if any(d != 1 for d in dilations):
        raise unknown(n, "a dilated mean")
    y = MEAN[len(kernel)](x, kernel, strides)
    return y if bool((mask == 1).all()) else y / MEAN[len(kernel)](mask, kernel, strides)


def _global(f: Callable[..., Tensor], _: NodeProto, x: Tensor) -> Tensor:
    return f(x, dim=tuple(range(2, x.ndim)), keepdim=True)


def _pad(n: NodeProto, x: Tensor, *given: Tensor | None) -> Tensor:
    pads = [int(v) for v in given[0].tolist()] if given and given[0] is not None else _ints(n, "pads", ())
    value = given[1] if len(given) > 1 else None
    axes = [int(v) % x.ndim for v in given[2].tolist()] if len(given) > 2 and given[2] is not None else range(x.ndim)
    half, mode = len(pads) // 2, attribute(n, "mode", b"constant").decode()
    before, behind = [0] * x.ndim, [0] * x.ndim
    for k, axis in enumerate(axes):
        before[axis], behind[axis] = pads[k], pads[half + k]
    if mode == "constant":
        return _padded(x, before, behind, float(attribute(n, "value", 0.0) if value is None else value))
    for axis in range(x.ndim):
        if before[axis] or behind[axis]:
            where = np.arange(x.shape[axis])[max(0, -before[axis]) : x.shape[axis] + min(0, behind[axis])]
            width = max(0, before[axis]), max(0, behind[axis])
            where = np.pad(where, width, mode=mode)
            x = x.index_select(axis, torch.from_numpy(where))
    return x


def _positions(n: NodeProto, size: int, out: int, scale: float, mode: str) -> Array:
    """Where each output element lies in the input."""
    at = np.arange(out, dtype=np.float64)
    if mode == "asymmetric":
        return at / scale
    if mode == "align_corners":
        return at * (size - 1) / (out - 1) if out > 1 else at * 0
    if mode == "pytorch_half_pixel" and out <= 1:
        return at * 0
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return np.asarray((at + 0.5) / scale - 0.5)
    if mode == "half_pixel_symmetric":
        return np.asarray((at + 0.5) / scale - 0.5 + size / 2 * (1 - out / (scale * size)))
    raise unknown(n, f"the coordinate transformation {mode}")


def _nearest(n: NodeProto, x: Array) -> Array:
    mode = attribute(n, "nearest_mode", b"round_prefer_floor")
    if mode in (b"round_prefer_floor", b"round_prefer_ceil"):
        return np.asarray(np.ceil(x - 0.5) if mode == b"round_prefer_floor" else np.floor(x + 0.5))
    return np.asarray(np.floor(x) if mode == b"floor" else np.ceil(x))


def _along(n: NodeProto, x: Tensor, axis: int, out: int, scale: float, coordinates: str) -> Tensor:
    """One axis of a Resize, by gathering neighbours."""
    size = x.shape[axis]
    at = _positions(n, size, out, scale, coordinates)
    kind = attribute(n, "mode", b"nearest")
    if kind == b"nearest":
        where = np.clip(_nearest(n, at) if coordinates or n.op_type == "Resize" else np.floor(at), 0, size - 1)
        return x.index_select(axis, torch.from_numpy(where.astype(np.int64)))
    if kind != b"linear" or attribute(n, "antialias", 0):
        raise unknown(n, f"this kind of resize ({kind.decode()})")
    low = np.floor(at)
    share = torch.from_numpy((at - low).astype(np.float32)).reshape(-1, *[1] * (x.ndim - 1 - axis))
    first, second = (torch.from_numpy(np.clip(low + k, 0, size - 1).astype(np.int64)) for k in (0, 1))
    return x.index_select(axis, first) * (1 - share) + x.index_select(axis, second) * share


def _resize(n: NodeProto, x: Tensor, *given: Tensor | None) -> Tensor:
    if attribute(n, "axes") is not None or attribute(n, "keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise unknown(n, "a resize of given axes")
    values: list[list[Any]] = [[] if t is None else t.reshape(-1).tolist() for t in given]
    old = n.op_type == "Upsample" or len(values) == 1  # opset 10 and before: scales alone
    scales = values[0] if old else values[1] if len(values) > 1 else []
    scales = scales or _ints(n, "scales", ())
    sizes = [] if old or len(values) < 3 else [int(v) for v in values[2]]
    if not sizes:
        sizes = [int(np.floor(s * f)) for s, f in zip(x.shape, scales, strict=True)]
    scales = scales or [out / s for out, s in zip(sizes, x.shape, strict=True)]
    coordinates = attribute(n, "coordinate_transformation_mode", b"half_pixel").decode()
    for axis, (out, scale) in enumerate(zip(sizes, scales, strict=True)):
        if out != x.shape[axis] or scale != 1:
            x = _along(n, x, axis, out, float(scale), "asymmetric" if old else coordinates)
    return x


OPERATORS: dict[str, Callable[..., Any]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": partial(_global, torch.mean),
    "GlobalMaxPool": partial(_global, torch.amax),
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
}
