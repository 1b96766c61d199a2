"""Whether two tensors, or two nodes' attributes, are the same byte for byte, wherever the bytes lie."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import NodeProto, TensorProto

from onnx_ocs.model import tensors
from onnx_ocs.model.nodes import Array

__all__ = ["BLOCK", "attributes", "equal_arrays", "same_tensor"]

BLOCK = 1 << 22  # bytes that are compared at a time


def attributes(node: NodeProto, without: tuple[str, ...] = ()) -> dict[str, bytes]:
    """A node's attributes, as bytes."""
    return {a.name: a.SerializeToString(deterministic=True) for a in node.attribute if a.name not in without}


def equal_arrays(a: Array, b: Array) -> bool:
    """Whether two arrays have the same dtype, shape and bytes."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.kind in "iub":
        return bool(np.array_equal(a, b))
    return a.tobytes() == b.tobytes()


def same_tensor(a: TensorProto, b: TensorProto) -> bool:
    """Whether two tensors have the same type, dims and bytes, wherever they are stored."""
    if a.data_type != b.data_type or a.dims[:] != b.dims[:]:
        return False
    if a.HasField("raw_data") and b.HasField("raw_data"):
        return bool(a.raw_data == b.raw_data)
    if tensors.is_external(a) and tensors.is_external(b):
        first, second = tensors.reference(a), tensors.reference(b)
        if first == second:
            return True
    if not (tensors.is_external(a) or tensors.is_external(b)):
        if a.data_type == TensorProto.STRING:
            return bool(a.string_data[:] == b.string_data[:])
        return equal_arrays(tensors.values(a), tensors.values(b))
    left, right = _stream(a), _stream(b)
    return all(x == y for x, y in zip(left, right, strict=True))


def _stream(t: TensorProto) -> Iterator[bytes]:
    """A tensor's bytes in pieces of `BLOCK`, whatever the blocks in which they come."""
    rest = bytearray()
    for part in tensors.blocks(t):
        rest += part
        while len(rest) >= BLOCK:
            yield bytes(rest[:BLOCK])
            del rest[:BLOCK]
    yield bytes(rest)
