"""External data: where a tensor's bytes lie in a side file, and whether that can be read."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path, PurePosixPath

import onnx
from onnx import TensorProto

from onnx_ocs.errors import UserError
from onnx_ocs.model.tensors import (
    ALONE,
    COMPLEX,
    FOLDER,
    PRIVATE,
    TYPED,
    all_tensors,
    bits,
    is_external,
    refer,
    reference,
    stored_size,
)

__all__ = ["attach"]


def _check_inline(t: TensorProto) -> None:
    expected = stored_size(t)
    if t.HasField("raw_data"):
        found, wanted = len(t.raw_data), expected
    else:
        found, wanted = sum(len(getattr(t, f)) for f in TYPED), math.prod(t.dims)
        if t.data_type in COMPLEX:
            wanted *= 2
        elif t.data_type != TensorProto.STRING and bits(t.data_type) < 8:
            wanted = expected
    if found != wanted:
        raise UserError(
            f"the tensor '{t.name}' has {found} values or bytes where its shape {list(t.dims)} needs {wanted}: the "
            f"file is damaged, export it again"
        )


def _check_reference(t: TensorProto, folder: Path, sizes: dict[str, int]) -> dict[str, str]:
    """The reference of an external tensor, checked: a plain file below the folder that holds what the shape needs."""
    entries, who = reference(t), f"the external data of '{t.name}'"
    location = entries.get("location", "")
    shown = location if len(location) < 200 else location[:200] + "..."
    if location not in sizes:
        parts = PurePosixPath(location).parts
        if not parts or "\0" in location or location[0] in "/\\" or ".." in parts or ":" in parts[0]:
            raise UserError(f"{who} is said to lie in '{shown}': it must be a file in the model's folder")
        path = folder / location
        try:
            inside = path.resolve().is_relative_to(folder.resolve())
            plain, size = path.is_file(), path.stat().st_size
        except (OSError, RuntimeError):
            raise UserError(
                f"{who}: the side file '{shown}' is missing or cannot be read: put it beside the model"
            ) from None
        if not inside:
            raise UserError(
                f"{who}: '{shown}' is a link that leads out of the model's folder: put the file itself there"
            )
        if not plain:
            raise UserError(f"{who}: '{shown}' is not a file")
        sizes[location] = size
    expected = stored_size(t)
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", str(expected)))
    except ValueError:
        raise UserError(f"{who} has an offset or a length that is not a number: export the model again") from None
    if bits(t.data_type) == 0:
        raise UserError(f"{who}: strings cannot be external")
    if offset < 0 or length != expected:
        raise UserError(
            f"{who} has offset {offset} and length {length}, but its shape {list(t.dims)} needs {expected} bytes: the "
            f"side file '{shown}' is not this model's, or the model is damaged"
        )
    if offset + length > sizes[location]:
        raise UserError(
            f"{who} should be bytes {offset} to {offset + length} of '{shown}', which has {sizes[location]}: the side "
            f"file is cut short or not this model's"
        )
    return entries | {"location": location, "offset": str(offset), "length": str(length)}


def attach(model: onnx.ModelProto, folder: Path | None) -> None:
    """Check every tensor's shape, type and size, and tie external data to the model's folder.

    Args:
        model: as read from the file; its references are completed in place.
        folder: where the model file lies; None for a model in memory, which may have none but attached ones.

    Raises:
        UserError: values that cannot be, or external data that is missing, cut short, or not in the folder.
    """
    sizes: dict[str, int] = {}
    found: list[tuple[TensorProto, dict[str, str]]] = []
    for t in all_tensors(model):
        if not is_external(t):
            _check_inline(t)
        elif FOLDER not in reference(t):
            if folder is None:
                raise UserError(f"the tensor '{t.name}' lies in a side file: give the model's path instead")
            found.append(
                (t, {k: v for k, v in _check_reference(t, folder, sizes).items() if not k.startswith(PRIVATE)})
            )
    users = Counter(entries["location"] for _, entries in found)
    alone = len(users) > 1 and max(users.values()) == 1
    for t, entries in found:
        refer(t, entries | {FOLDER: str(folder)} | ({ALONE: "1"} if alone else {}))
