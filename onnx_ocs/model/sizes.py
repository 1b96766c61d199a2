"""How large a model is, with its side files or without, and the model at a size that a checker can take."""

from __future__ import annotations

import onnx

from onnx_ocs.model.protobuf import copy_fields
from onnx_ocs.model.tensors import all_tensors, as_input, inlined, is_external, stored_size

__all__ = ["INLINE", "exceeds", "inline_size", "is_plain", "rough_size", "total_size", "without_side_files"]

INLINE = 1 << 10  # bytes up to which a constant is kept where weights are left out: it may be a shape


def inline_size(model: onnx.ModelProto) -> int:
    """Bytes of the tensors that lie in the model itself."""
    return _survey(model)[0]


def _survey(model: onnx.ModelProto) -> tuple[int, list[onnx.TensorProto]]:
    """Bytes of the tensors that lie in the model itself, and the others, which lie in side files."""
    inside, outside = 0, list[onnx.TensorProto]()
    for t in all_tensors(model):
        if is_external(t):
            outside.append(t)
        else:
            inside += stored_size(t)
    return inside, outside


def exceeds(model: onnx.ModelProto, limit: int) -> bool:
    """Whether the serialized model is larger."""
    return _exceeds(model, inline_size(model), limit)


def _exceeds(model: onnx.ModelProto, inside: int, limit: int) -> bool:
    """As `exceeds`; it is serialized only where the weights alone do not decide."""
    return inside * 4 >= limit and (inside >= limit or int(model.ByteSize()) >= limit)


def is_plain(model: onnx.ModelProto, limit: int) -> bool:
    """Whether the model has no side files and is no larger when serialized, so that it is a message like any other."""
    inside, outside = _survey(model)
    return not outside and not _exceeds(model, inside, limit)


def total_size(model: onnx.ModelProto) -> int:
    """Bytes of a model and of what it refers to in side files."""
    return int(model.ByteSize()) + sum(map(stored_size, _survey(model)[1]))


def rough_size(model: onnx.ModelProto, exact: int) -> int:
    """As `total_size`, which has to serialize; of the tensors alone where these have more than `exact` bytes."""
    inside, others = _survey(model)
    outside = sum(map(stored_size, others))
    return inside + outside if inside + outside > exact else int(model.ByteSize()) + outside


def without_side_files(model: onnx.ModelProto, limit: int = (1 << 31) - (1 << 20)) -> onnx.ModelProto:
    """The model as `onnx.checker` can take it: what lies in side files, or exceeds protobuf's limit, is an input.

    Args:
        model: not changed; returned itself if it has no side files and is small enough.
        limit: bytes.
    """
    inside, outside = _survey(model)
    if not outside and not _exceeds(model, inside, limit):
        return model
    new = onnx.ModelProto()
    copy_fields(model, new, lambda f: f.name != "graph")
    copy_fields(model.graph, new.graph, lambda f: f.name != "initializer")
    known = {i.name for i in new.graph.input}
    for t in model.graph.initializer:
        if stored_size(t) <= INLINE:
            new.graph.initializer.append(inlined(t))
        elif t.name not in known:
            as_input(new.graph, t)
    for t in all_tensors(new) if outside else ():
        if is_external(t):
            t.CopyFrom(inlined(t))
    return new
