"""Drawn rows: some output positions of a layer, and what the layer sees there.

Positions are drawn per sample, from seed, layer and number of the sample alone: the same in both models, whatever the
batches.  The inputs of all groups are numbered kernel position by kernel position, all channels of one after the other
(`onnx_ocs.reconstruction.linear.canonical`); each group gets its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_ocs.model.nodes import Array, attribute, is_op
from onnx_ocs.reconstruction.linear import LinearMap

__all__ = ["Window", "draw", "inputs", "outputs", "window"]


@dataclass(frozen=True)
class Window:
    """How a Conv's output positions see the input, per spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    spread: tuple[int, ...]  # zeros are put between the inputs of a ConvTranspose, so many that this is the distance
    before: tuple[int, ...]  # padding; negative: cut off


def window(layer: LinearMap, x: Sequence[int], y: Sequence[int]) -> Window | None:
    """The window of a Conv or ConvTranspose for the shapes at hand; None for matrix products."""
    node = layer.node
    if not is_op(node, "Conv", "ConvTranspose"):
        return None
    kernel = tuple(layer.weight.chain.shape[2:])
    rank = len(kernel)
    ones = (1,) * rank
    strides = tuple(attribute(node, "strides") or ones)
    dilations = tuple(attribute(node, "dilations") or ones)
    pads = tuple(attribute(node, "pads") or (0,) * 2 * rank)
    auto = attribute(node, "auto_pad", b"NOTSET").decode()
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True))
    if is_op(node, "Conv"):
        before = pads[:rank]
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            total = [max(0, (y[2 + a] - 1) * strides[a] + reach[a] - x[2 + a]) for a in range(rank)]
            before = tuple(t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total)
        elif auto == "VALID":
            before = (0,) * rank
        return Window(kernel, strides, dilations, ones, before)
    extra = tuple(attribute(node, "output_padding") or (0,) * rank)
    if auto in ("SAME_UPPER", "SAME_LOWER") or attribute(node, "output_shape"):
        total = [strides[a] * (x[2 + a] - 1) + extra[a] + reach[a] - y[2 + a] for a in range(rank)]
        cut = tuple(t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total)
    else:
        cut = (0,) * rank if auto == "VALID" else pads[:rank]
    before = tuple(r - 1 - c for r, c in zip(reach, cut, strict=True))
    return Window(kernel, ones, dilations, strides, before)


def draw(count: int, most: int, dice: Array, turn: int, allowed: Array | None = None) -> Array:
    """Up to `most` of `count` positions, sorted: one at random out of each of as many equal stretches.

    Args:
        count: how many positions there are.
        most: how many are wanted.
        dice: random numbers below 1.
        turn: where among these to start.
        allowed: which positions count, bool (count,); None: all.
    """
    pool = np.arange(count) if allowed is None else np.flatnonzero(allowed)
    if pool.size <= most:
        return pool
    chance = np.take(dice, turn + np.arange(most), mode="wrap")
    ends = np.arange(most + 1) * pool.size // most
    return np.asarray(pool[ends[:-1] + (chance * np.diff(ends)).astype(np.int64)])


def outputs(y: Array, axis: int, positions: Array) -> Array:
    """Values at positions (counted over all axes but the channels'), (rows, channels)."""
    moved = np.moveaxis(y, axis, -1)
    if axis % y.ndim == y.ndim - 1:
        return np.asarray(y.reshape(-1, y.shape[-1])[positions], np.float32)
    where = np.unravel_index(positions, moved.shape[:-1])
    return np.asarray(moved[where], np.float32)


def inputs(layer: LinearMap, x: Array, y: Sequence[int], positions: Array) -> Array:
    """What each group of the layer sees at output positions, float32 (G, rows, K).

    Args:
        layer: the layer.
        x: its input.
        y: shape of its output.
        positions: counted over all axes of the output but the channels'.
    """
    node = layer.node
    if is_op(node, "Gemm"):
        return _by_group(layer, np.asarray((x.T if attribute(node, "transA", 0) else x)[positions], np.float32))
    if is_op(node, "MatMul"):
        rows = outputs(x if x.ndim > 1 else x[None], layer.axis if x.ndim > 1 else -1, positions)
        return _by_group(layer, rows)
    seen = window(layer, x.shape, y)
    assert seen is not None
    n, *at = np.unravel_index(positions, (y[0], *y[2:]))
    flat, inside = _places(seen, at, x.shape[2:])
    channels, taps = x.shape[1], flat.shape[1]
    planes = x.reshape(len(x), channels, -1)
    if layer.depthwise:  # plane by plane
        size = planes.shape[2]
        found = np.take(np.moveaxis(planes, 1, 0).reshape(channels, -1), n[:, None] * size + flat, axis=1)
        found = np.asarray(found, np.float32)
        if not inside.all():
            found *= inside
        return found
    values = np.moveaxis(planes, 1, 2)  # a view; channels last
    if taps > 1:
        values = np.ascontiguousarray(values)
    found = np.asarray(values[n[:, None], flat], np.float32)
    if not inside.all():
        found *= inside[:, :, None]
    return _by_group(layer, found.reshape(positions.size, taps * channels))


def _places(seen: Window, at: Sequence[Array], size: Sequence[int]) -> tuple[Array, Array]:
    """Where each kernel position looks, counted over the spatial axes, and whether that lies inside; (rows, taps)."""
    taps = int(np.prod(seen.kernel))
    offsets = np.unravel_index(np.arange(taps), seen.kernel)
    inside = np.ones((len(at[0]), taps), bool)
    flat = np.zeros((len(at[0]), taps), np.int64)
    for a, place in enumerate(at):
        where = place[:, None] * seen.strides[a] + offsets[a][None] * seen.dilations[a] - seen.before[a]
        if seen.spread[a] > 1:
            inside &= where % seen.spread[a] == 0
            where = where // seen.spread[a]
        inside &= (where >= 0) & (where < size[a])
        flat = flat * size[a] + np.clip(where, 0, size[a] - 1)
    return flat, inside


def _by_group(layer: LinearMap, x: Array) -> Array:
    """Rows of all inputs, (rows, inputs), as (G, rows, K)."""
    if layer.dense:
        return x[None]
    padded = np.concatenate([x, np.zeros((len(x), 1), x.dtype)], axis=1) if layer.columns.min() < 0 else x
    return np.ascontiguousarray(padded[:, layer.columns].transpose(1, 0, 2))
