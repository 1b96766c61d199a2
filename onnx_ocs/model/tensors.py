"""Where a tensor's values are: in the model, in a side file, or taken from a side file.

A side file (ONNX external data) is never read into the model.  `attach` checks every reference once and writes down
the folder that it is meant in; `values` maps the bytes into memory when somebody asks.  A weight whose channels are
repeated or reordered (`take`) stays a reference as well: it says which positions of which axes are to be taken, and the
values are made when a session is created or the file is written, block by block.  So the memory of a rewrite does not
grow with the weights, and copies of a model cost nothing.
"""

from __future__ import annotations

import base64
import json
import math
import mmap
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnx_ocs.errors import UserError
from onnx_ocs.model.nodes import Array

__all__ = [
    "ALONE",
    "COMPLEX",
    "FOLDER",
    "HOME",
    "PRIVATE",
    "TYPED",
    "all_tensors",
    "arrays",
    "as_input",
    "bits",
    "blocks",
    "has_side_files",
    "home",
    "inlined",
    "is_alone",
    "is_external",
    "is_taken",
    "pack",
    "refer",
    "reference",
    "source",
    "stored_size",
    "take",
    "unpack",
    "values",
]

PRIVATE = "onnx_ocs."  # entries of external_data that are ours; they never leave the process
FOLDER, TAKEN, ALONE = PRIVATE + "folder", PRIVATE + "taken", PRIVATE + "alone"
HOME = PRIVATE + "home"  # the side file in which values are to lie that are somewhere else now
BLOCK = 1 << 24  # bytes that are copied at a time
AXES = 32  # most that a tensor may have: numpy 1's limit
MOST_PACKED = 1 << 26  # bytes of positions that text may hold
FEW = 16  # numbers of a repeated field that are read faster one by one
TYPED = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
PLAIN = {
    getattr(TensorProto, k): np.dtype(v)
    for k, v in {
        "FLOAT": "<f4", "DOUBLE": "<f8", "FLOAT16": "<f2", "BOOL": "?", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4",
        "INT64": "<i8", "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
    }.items()
}  # fmt: skip
COMPLEX = (TensorProto.COMPLEX64, TensorProto.COMPLEX128)
GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
HOLDING = frozenset([*GRAPHS, AttributeProto.TENSOR, AttributeProto.TENSORS])  # kinds of attributes with tensors inside


def pack(values: Array) -> str:
    """Integers as text."""
    return base64.b64encode(zlib.compress(np.asarray(values, "<i4").tobytes(), 4)).decode()


def unpack(text: str) -> Array:
    """Integers from text.

    Raises:
        ValueError: it holds none, or more than any tensor has channels.
        zlib.error: it holds none.
    """
    packed = zlib.decompressobj()
    data = packed.decompress(base64.b64decode(text), MOST_PACKED)
    if packed.unconsumed_tail or not packed.eof:
        raise ValueError("it is cut short, or too long")
    return np.frombuffer(data, "<i4").astype(np.int64)


def all_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model: initializers and attributes, of subgraphs and local functions too."""
    graphs = [model.graph]
    nodes = [model.graph.node, *(f.node for f in model.functions)]
    while graphs or nodes:
        if graphs:
            g = graphs.pop()
            yield from g.initializer
            for s in g.sparse_initializer:
                yield from (s.values, s.indices)
            if g is not model.graph:
                nodes.append(g.node)
            continue
        for n in nodes.pop():
            for a in n.attribute:
                kind = a.type
                if kind not in HOLDING:
                    continue
                if kind in GRAPHS:
                    graphs += [a.g] if kind == AttributeProto.GRAPH else a.graphs
                elif kind == AttributeProto.TENSOR:
                    yield a.t
                else:
                    yield from a.tensors


def is_external(t: TensorProto) -> bool:
    """Whether the values lie in a side file."""
    return bool(t.data_location == TensorProto.EXTERNAL)


def has_side_files(model: onnx.ModelProto) -> bool:
    """Whether any values of a model lie in a side file."""
    return any(is_external(t) for t in all_tensors(model))


def reference(t: TensorProto) -> dict[str, str]:
    """The entries that say where the values lie."""
    return {e.key: e.value for e in t.external_data}


def is_taken(t: TensorProto) -> bool:
    """Whether the values are taken from a side file's and exist nowhere yet."""
    return is_external(t) and any(e.key == TAKEN for e in t.external_data)


def home(t: TensorProto) -> str:
    """The location of the side file in which the values are to lie when the model is written."""
    entries = reference(t)
    return entries.get(HOME, entries["location"])


def is_alone(t: TensorProto) -> bool:
    """Whether the tensor came in a side file of its own, as every tensor of its model did."""
    return any(e.key == ALONE for e in t.external_data)


def source(t: TensorProto) -> Path:
    """The side file."""
    entries = reference(t)
    return Path(entries[FOLDER], entries["location"])


@lru_cache
def bits(data_type: int) -> int:
    """Bits of one element as they are stored; 0 for strings."""
    if data_type == TensorProto.STRING:
        return 0
    name = helper.tensor_dtype_to_np_dtype(data_type).name
    narrow = next((b for b in (2, 4) if name in (f"int{b}", f"uint{b}") or name.startswith(f"float{b}_")), 0)
    return narrow or 8 * int(helper.tensor_dtype_to_np_dtype(data_type).itemsize)


def stored_size(t: TensorProto) -> int:
    """Bytes of the values as ONNX stores them.

    Raises:
        UserError: the type or the shape cannot be.
    """
    dims = t.dims[:]
    if len(dims) > AXES:
        raise UserError(f"the tensor '{t.name}' has {len(dims)} axes: export the model again")
    if dims and min(dims) < 0:
        raise UserError(f"the tensor '{t.name}' has the shape {dims}: export the model again")
    try:
        return int(math.prod(dims) * bits(t.data_type) + 7) // 8
    except (KeyError, ValueError, TypeError):
        raise UserError(f"the tensor '{t.name}' has the unknown type {t.data_type}: export the model again") from None


def refer(t: TensorProto, entries: dict[str, str]) -> None:
    """Make a tensor refer to a side file; its values in the model, if any, are the caller's to clear."""
    t.data_location = TensorProto.EXTERNAL
    del t.external_data[:]
    for key, value in entries.items():
        t.external_data.add(key=key, value=value)


def _mapped(t: TensorProto) -> tuple[Array, mmap.mmap | None]:
    """The side file's values in their original shape, and the map that they lie in."""
    entries = reference(t)
    offset, length = int(entries["offset"]), int(entries["length"])
    dims = json.loads(entries[TAKEN])["dims"] if TAKEN in entries else list(t.dims)
    if not length:
        return np.zeros(dims, helper.tensor_dtype_to_np_dtype(t.data_type)), None
    start = offset - offset % mmap.ALLOCATIONGRANULARITY
    try:
        with source(t).open("rb") as f:
            whole = mmap.mmap(f.fileno(), offset - start + length, offset=start, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as e:
        raise UserError(f"{source(t)}: the side file has changed or cannot be read ({e})") from None
    if bits(t.data_type) < 8:
        raw = TensorProto(data_type=t.data_type, dims=dims, raw_data=whole[offset - start :])
        return numpy_helper.to_array(raw), None
    dtype = helper.tensor_dtype_to_np_dtype(t.data_type).newbyteorder("<")
    return np.frombuffer(whole, np.uint8, length, offset - start).view(dtype).reshape(dims), whole


def _positions(t: TensorProto) -> dict[int, Array]:
    """For each axis that something is taken along, the positions."""
    entries = reference(t)
    packed = json.loads(entries[TAKEN])["positions"] if TAKEN in entries else {}
    return {int(axis): unpack(text) for axis, text in packed.items()}


def _from_field(field: Any, dtype: type[np.generic]) -> Array:
    """The numbers of a repeated field; numpy looks at it long before it reads it, which a list of a few spares."""
    return np.array(field[:] if len(field) <= FEW else field, dtype)


def values(t: TensorProto) -> Array:
    """The values; those of a side file are mapped, not read.

    Raises:
        UserError: the side file is gone or has been cut short.
    """
    if not is_external(t):
        plain = PLAIN.get(t.data_type)
        if plain is not None and t.HasField("raw_data"):  # as `to_array` does, which looks at much more
            return np.frombuffer(t.raw_data, plain).reshape(t.dims)
        if t.data_type == TensorProto.FLOAT:
            return _from_field(t.float_data, np.float32).reshape(t.dims)
        if t.data_type in (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32):
            return _from_field(t.int32_data, np.int32).astype(plain, copy=False).reshape(t.dims)
        return np.asarray(numpy_helper.to_array(t))
    found, _ = _mapped(t)
    for axis, positions in _positions(t).items():
        found = np.take(found, positions, axis=axis)
    return found


def take(t: TensorProto, axis: int, positions: Array) -> TensorProto | None:
    """A reference to `np.take(values, positions, axis)` of a side file's tensor; None where that must be computed."""
    if not is_external(t) or bits(t.data_type) < 8:
        return None
    entries, known = reference(t), _positions(t)
    dims = json.loads(entries[TAKEN])["dims"] if TAKEN in entries else list(t.dims)
    known[axis] = known[axis][positions] if axis in known else np.asarray(positions, np.int64)
    packed = {str(a): pack(p) for a, p in sorted(known.items())}
    new = TensorProto(data_type=t.data_type, dims=t.dims)
    new.dims[axis] = len(positions)
    entries.pop("checksum", None)
    refer(new, entries | {TAKEN: json.dumps({"dims": dims, "positions": packed})})
    return new


def blocks(t: TensorProto) -> Iterator[memoryview | bytes]:
    """The bytes of a tensor as ONNX stores them, a block at a time."""
    if not is_external(t):
        yield t.raw_data if t.HasField("raw_data") else numpy_helper.from_array(numpy_helper.to_array(t)).raw_data
        return
    whole, mapped = _mapped(t)
    known = _positions(t)
    while whole.ndim > 1 and whole.shape[0] == 1 and 0 not in known:  # so that the first axis is one to cut
        whole, known = whole[0], {a - 1: p for a, p in known.items()}
    if not whole.ndim:
        yield whole.tobytes()
        return
    for part in _parts(whole, known, mapped, BLOCK):
        yield part.view(np.uint8).data


def arrays(t: TensorProto, size: int = BLOCK) -> Iterator[Array]:
    """The values, rows of about `size` bytes at a time, without keeping what has been read in memory."""
    if not is_external(t) or bits(t.data_type) < 8:
        yield values(t)
        return
    whole, mapped = _mapped(t)
    if not whole.ndim:
        yield whole
        return
    yield from _parts(whole, _positions(t), mapped, size)


def _parts(whole: Array, known: dict[int, Array], mapped: mmap.mmap | None, size: int) -> Iterator[Array]:
    rows = known.pop(0, np.arange(whole.shape[0]))
    step = max(1, size // max(1, whole[:1].nbytes))
    for k in range(0, len(rows), step):
        part = whole[rows[k : k + step]]
        for axis, positions in known.items():
            part = np.take(part, positions, axis=axis)
        yield np.ascontiguousarray(part)
        if mapped is not None and hasattr(mapped, "madvise"):  # what has been read need not stay in memory
            mapped.madvise(mmap.MADV_DONTNEED)


def inlined(t: TensorProto) -> TensorProto:
    """The tensor with its values in the model."""
    if not is_external(t):
        return t
    raw = b"".join(bytes(b) for b in blocks(t))
    return TensorProto(name=t.name, data_type=t.data_type, dims=t.dims, raw_data=raw)


def as_input(graph: onnx.GraphProto, t: TensorProto) -> None:
    """Let an input of the graph stand for a tensor, of which a checker needs the type and the shape alone."""
    kind = graph.input.add(name=t.name).type.tensor_type
    kind.elem_type = t.data_type
    kind.shape.SetInParent()
    for d in t.dims:
        kind.shape.dim.add(dim_value=d)
