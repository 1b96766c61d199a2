"""Passes by name: those of this package, and those that other packages register.

A package adds passes in its own pyproject.toml:

    [project.entry-points."onnx_ocs.passes"]
    polish = "my_package.polish:Polish"

and `--passes translate,polish` finds them.  A pass is a class that can be made without arguments, with `name`,
`version` and `run` as `onnx_ocs.passes.Pass` says; fields of a dataclass that are called like an option get its value.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from onnx_ocs.errors import UserError
from onnx_ocs.passes import PASSES

__all__ = ["GROUP", "find_pass"]

GROUP = "onnx_ocs.passes"


def find_pass(name: str) -> Any:
    """The class of a pass.

    Args:
        name: as given to `--passes`; a pass of this package wins over another package's of the same name.

    Raises:
        UserError: there is no such pass, or it cannot be loaded.
    """
    if name in PASSES:
        return PASSES[name]
    found = {e.name: e for e in entry_points(group=GROUP)}
    if name not in found:
        raise UserError(f"there is no pass '{name}': choose from {', '.join([*PASSES, *sorted(found)])}")
    entry = found[name]
    try:
        kind = entry.load()
    except Exception as e:  # whatever the other package raises when it is imported
        raise UserError(f"the pass '{name}' ({entry.value}) cannot be loaded: {type(e).__name__}: {e}") from None
    missing = [a for a in ("name", "version", "run") if not hasattr(kind, a)]
    if missing:
        raise UserError(f"the pass '{name}' ({entry.value}) has no {', '.join(missing)}: it is no pass of onnx_ocs")
    return kind
