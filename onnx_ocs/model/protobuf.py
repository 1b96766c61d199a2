"""A model as a protobuf message: copies of some of its fields, and its bytes piece by piece.

`SerializeToString` makes the whole message beside the model, growing it by doubling; with large weights that costs more
than all that a pass computes.  The same bytes can be had tensor by tensor: a message is its fields in the order of
their numbers, and a field that is a message is its tag, its length and its bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, TypeVar

import onnx
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

__all__ = ["copy_fields", "drop_value_info", "pieces"]

M = TypeVar("M", bound=Message)
GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
LENGTH_DELIMITED = 2  # protobuf's wire type of messages


def copy_fields(source: M, into: M, chosen: Callable[[Any], bool]) -> M:
    """Copy the fields of a message whose descriptors are chosen, and return the copy."""
    for f, value in source.ListFields():
        if not chosen(f):
            continue
        if f.is_repeated:
            getattr(into, f.name).extend(value)
        elif f.message_type is not None:
            getattr(into, f.name).CopyFrom(value)
        elif f.type == f.TYPE_STRING and isinstance(value, bytes):  # no text, which only a parser lets through
            into.MergeFromString(_header(f.number, len(value)) + value)
        else:
            setattr(into, f.name, value)
    return into


def drop_value_info(graph: onnx.GraphProto, dropped: Callable[[str], bool]) -> None:
    """Delete what a graph says of the types and shapes of tensors, by name."""
    for k in reversed(range(len(graph.value_info))):
        if dropped(graph.value_info[k].name):
            del graph.value_info[k]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


@lru_cache
def _header(number: int, length: int) -> bytes:
    return _varint(number << 3 | LENGTH_DELIMITED) + _varint(length)


def _around(message: Message, number: int) -> tuple[bytes, bytes]:
    """The bytes of the fields before and behind one of them."""
    empty = type(message)
    before = copy_fields(message, empty(), lambda f: f.number < number)
    return before.SerializeToString(), copy_fields(message, empty(), lambda f: f.number > number).SerializeToString()


def pieces(model: onnx.ModelProto) -> Iterator[bytes]:
    """The bytes of `model.SerializeToString()`; each weight is a piece of its own.

    Args:
        model: not changed.
    """
    graph = model.graph
    if UnknownFieldSet(model) or UnknownFieldSet(graph):  # of a newer ONNX: protobuf alone knows where they go
        yield model.SerializeToString()
        return
    ahead, behind = _around(model, GRAPH)
    first, last = _around(graph, INITIALIZER)
    sizes = [len(t.SerializeToString()) for t in graph.initializer]
    headers = [_header(INITIALIZER, size) for size in sizes]
    length = len(first) + sum(len(h) for h in headers) + sum(sizes) + len(last)
    yield ahead + _header(GRAPH, length) + first
    for header, t in zip(headers, graph.initializer, strict=True):
        yield header
        yield t.SerializeToString()
    yield last + behind
