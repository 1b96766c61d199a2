"""Writing a model with side files (ONNX external data), in the layout that it came in, atomically.

Bytes that were not changed are copied from file to file by the kernel; taken ones are made block by block.  One file
stays one file, a file for each tensor stays that, the smallest external tensor sets the size from which new ones go
outside, and names stay, unless they are the input's name (then they follow the output's) or belong to somebody else.

The model is staged with its side files, where it can be loaded; `onnx_ocs.model.publishing` puts it in its place.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import Error as ProtobufError
from onnx import TensorProto

from onnx_ocs.errors import UserError
from onnx_ocs.model import sizes, tensors
from onnx_ocs.model.destinations import identities
from onnx_ocs.model.staging import open_up

__all__ = ["Staged", "final_name", "needed", "referred"]

THRESHOLD = 1 << 10  # bytes from which a tensor goes into a side file, where the input does not say
PAGE = 4096  # tensors of this size and more start on a page, so that they can be mapped


def needed(model: onnx.ModelProto, limit: int) -> bool:
    """Whether the model has side files, or needs one because protobuf cannot hold it."""
    return not sizes.is_plain(model, limit)


class _Names:
    """Names of side files in the output's folder."""

    def __init__(self, path: Path, source: Path | None, read: set[Path], reserved: Collection[object]) -> None:
        self.path, self.source, self.reserved = path, source, reserved
        self.read = {p.resolve() for p in read}  # files of the input, which stay as they are
        self.own = referred(path)
        self.given: dict[str, str] = {}

    def _free(self, name: str) -> bool:
        target = self.path.parent / name
        if not target.parent.resolve().is_relative_to(self.path.parent.resolve()) or target == self.path:
            return False
        if name in self.given.values() or target.resolve() in self.read:
            return False
        if any(key in self.reserved for key in identities(target)):
            return False
        return name in self.own or not (target.exists() or target.is_symlink())

    def __call__(self, location: str) -> str:
        """The name that a side file of the input gets in the output.

        Raises:
            UserError: the name is another file's.
        """
        if location not in self.given:
            name = PurePosixPath(location)
            if self.source is not None:
                for old, new in ((self.source.name, self.path.name), (self.source.stem, self.path.stem)):
                    if name.name.startswith(old) and name.name[len(old) :][:1] in ("", ".", "_", "-"):
                        name = name.with_name(new + name.name[len(old) :])
                        break
            other = name.with_name(f"{self.path.stem}.{name.name}")
            free = next((str(n) for n in (name, other) if self._free(str(n))), None)
            if free is None:
                raise UserError(
                    f"{self.path.parent / name}: this side file exists and is not {self.path.name}'s: remove it, or "
                    f"write to another folder"
                )
            self.given[location] = free
        return self.given[location]


def referred(path: Path) -> set[str]:
    """Side files that an older output at this place refers to."""
    try:
        old = onnx.load(path, load_external_data=False)
        return {tensors.reference(t)["location"] for t in tensors.all_tensors(old) if tensors.is_external(t)}
    except (
        OSError,
        ValueError,
        KeyError,
        ProtobufError,
        UserError,
    ):  # none there, or no model: then nothing beside it is its own
        return set()


def _plan(model: onnx.ModelProto, names: _Names) -> dict[str, list[TensorProto]]:
    """For each side file of the output its tensors, which are the model's own."""
    everything = list(tensors.all_tensors(model))
    outside = [t for t in everything if tensors.is_external(t)]
    used = Counter(tensors.home(t) for t in outside)
    threshold = min((int(tensors.reference(t)["length"]) for t in outside), default=THRESHOLD)
    home = used.most_common(1)[0][0] if used else names.path.name + ".data"
    alone = any(tensors.is_alone(t) for t in outside)
    new = {id(t) for t in model.graph.initializer if not tensors.is_external(t) and t.data_type != TensorProto.STRING}
    files: dict[str, list[TensorProto]] = {}
    for t in everything:
        if id(t) in new and tensors.stored_size(t) >= max(threshold, 1):
            location = home
        elif tensors.is_external(t):
            location = tensors.home(t)
        else:
            continue
        if alone and (tensors.is_taken(t) or not tensors.is_external(t)):
            location = re.sub(r"[^\w.-]", "_", t.name, flags=re.ASCII)[:100] or "tensor"
            turn, first = 0, location
            while location in used:
                turn += 1
                location = f"{first}_{turn}"
            used[location] += 1
        files.setdefault(names(location), []).append(t)
    return files


def _copy_range(source: Path, offset: int, length: int, out: int) -> None:
    """Append bytes of one file to another, in the kernel where it can."""
    with source.open("rb") as f:
        in_kernel = hasattr(os, "copy_file_range")
        while length:
            if in_kernel:
                try:
                    done = os.copy_file_range(f.fileno(), out, min(length, 1 << 30), offset)
                except OSError as e:
                    if e.errno in (28, 122):  # disk full, quota
                        raise
                    in_kernel = False
                    continue
            else:
                done = os.write(out, os.pread(f.fileno(), min(length, tensors.BLOCK), offset))
            if not done:
                raise UserError(f"{source}: the side file has become shorter while it was read")
            offset, length = offset + done, length - done


def _write(out: int, data: memoryview | bytes) -> None:
    view = memoryview(data)
    while len(view):
        view = view[os.write(out, view) :]


def _fill(out: int, items: list[TensorProto]) -> list[tuple[int, int]]:
    """Write tensors into a side file; (offset, length) of each.  Tensors that share their bytes go on sharing them."""
    at, places = 0, []
    known: dict[tuple[Path, str, str], int] = {}
    for t in items:
        size = tensors.stored_size(t)
        entries = tensors.reference(t)
        key = (tensors.source(t), entries["offset"], entries["length"]) if tensors.is_external(t) else None
        plain = key is not None and not tensors.is_taken(t)
        if plain and key in known:
            places.append((known[key], size))
            continue
        gap = -at % (PAGE if size >= PAGE else 16)
        _write(out, bytes(gap))
        at += gap
        if key is not None and plain:
            known[key] = at
            _copy_range(key[0], int(entries["offset"]), size, out)
        else:
            for block in tensors.blocks(t):
                _write(out, block)
        places.append((at, size))
        at += size
    os.fsync(out)
    return places


def final_name(path: Path) -> str:
    """What the model itself is called where it is staged."""
    return f"final.{path.name}"


class Staged:
    """A model written with its side files into a folder beside the output, and not yet in its place.

    Attributes:
        path: where the model file is to go.
        model: the staged model file; it can be loaded, and is what is published at last.
        between: the same model for the output's folder, on the side files where they are staged.
        files: names of its side files.
    """

    def __init__(
        self, model: onnx.ModelProto, path: Path, source: Path | None, folder: Path, reserved: Collection[object] = ()
    ) -> None:
        """Write a model and its side files.

        Args:
            model: the model; not changed.
            path: where the model file is to go.
            source: the file that it was read from.
            folder: where it is staged.
            reserved: `identities` of files that are not its own.

        Raises:
            UserError: a side file's name is another file's.
            OSError: it cannot be written.
        """
        self.path, self._folder = path, folder
        proto = onnx.ModelProto()
        proto.CopyFrom(model)
        read = {tensors.source(t) for t in tensors.all_tensors(model) if tensors.is_external(t)}
        files = _plan(proto, _Names(path, source, read, reserved))
        self.files = list(files)
        for name, items in files.items():
            self._fill(name, items)
        self.model, self.between = folder / final_name(path), folder / f"between.{path.name}"
        _write_file(self.model, proto.SerializeToString())
        for t in tensors.all_tensors(proto):
            if tensors.is_external(t):
                entries = tensors.reference(t)
                tensors.refer(t, entries | {"location": f"{folder.name}/{entries['location']}"})
        _write_file(self.between, proto.SerializeToString())

    @property
    def written(self) -> list[Path]:
        """All staged files."""
        return [self.model, self.between, *(self._folder / name for name in self.files)]

    def _fill(self, name: str, items: list[TensorProto]) -> None:
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            places = _fill(handle, items)
        finally:
            os.close(handle)
        for t, (offset, length) in zip(items, places, strict=True):
            entries = {k: v for k, v in tensors.reference(t).items() if not k.startswith(tensors.PRIVATE)}
            t.ClearField("raw_data")
            for field in tensors.TYPED:
                t.ClearField(field)
            tensors.refer(t, entries | {"location": name, "offset": str(offset), "length": str(length)})


def _write_file(path: Path, data: bytes) -> None:
    with path.open("xb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    open_up(path)
