"""Passes by name: those of this package, and those that other packages register.

A package adds passes in its own pyproject.toml:

    [project.entry-points."onnx_ocs.passes"]
    polish = "my_package.polish:Polish"

and `--passes translate,polish` finds them.  A pass is a class that can be made without arguments, with `name`,
`version` and `run` as `onnx_ocs.passes.Pass` says.  An option has the address "pass.field": two passes can
have fields of one name.  On the command line, fields of another package's pass that are called like a flag get its
value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from onnx_ocs.errors import UserError
from onnx_ocs.passes import MOVES, PASSES

if TYPE_CHECKING:
    from onnx_ocs.passmanager import Pass

__all__ = ["AUTO", "GROUP", "Auto", "as_passes", "find_pass", "make_passes", "moves_of", "names_of"]

GROUP = "onnx_ocs.passes"
AUTO = "auto"  # in the place of passes


@dataclass(frozen=True)
class Auto:
    """In the place of a list of passes: which of these run is found by trying (`onnx_ocs.verbs.automatic`).

    Attributes:
        moves: the passes that may run, with their options.
    """

    moves: tuple[Pass, ...] = tuple(p() for p in MOVES)


def names_of(text: str) -> list[str]:
    """The names in a list that is separated by commas."""
    return [n.strip() for n in text.split(",") if n.strip()]


def moves_of(names: Sequence[str]) -> tuple[list[str], bool]:
    """The names of the passes that may run, and whether which of them do is to be found.

    Args:
        names: of passes, or "auto" alone.

    Raises:
        UserError: "auto" does not stand alone.
    """
    if AUTO not in names:
        return [*names], False
    if len(names) > 1:
        raise UserError(f"'{AUTO}' chooses the passes: give it alone")
    return [p.name for p in MOVES], True


def as_passes(given: Sequence[Pass | str] | str | Auto) -> list[Pass] | Auto:
    """Passes, however they are given.

    Args:
        given: passes, or their names (alone, in a list, or separated by commas); "auto" for those that pay.

    Raises:
        UserError: something is neither a pass nor the name of one, or the passes do not go together.
    """
    if isinstance(given, Auto):
        return given
    items: list[Pass | str] = [*names_of(given)] if isinstance(given, str) else [*given]
    if AUTO in items:
        moves_of([str(p) for p in items])
        return Auto()
    for p in items:
        if isinstance(p, type) or not (isinstance(p, str) or hasattr(p, "run")):
            raise UserError(f"{p!r} is no pass: give one such as Translate(), or a name such as 'translate'")
    _check_together([p for p in items if isinstance(p, str)])
    return [make_passes([p])[0] if isinstance(p, str) else p for p in items]


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
        known = ", ".join([*PASSES, *sorted(found)])
        raise UserError(f"there is no pass '{name}': choose from {known}; or '{AUTO}' alone, for those that pay")
    entry = found[name]
    try:
        kind = entry.load()
    except Exception as e:  # whatever the other package raises when it is imported
        raise UserError(f"the pass '{name}' ({entry.value}) cannot be loaded: {type(e).__name__}: {e}") from None
    missing = [a for a in ("name", "version", "run") if not hasattr(kind, a)]
    if missing:
        raise UserError(f"the pass '{name}' ({entry.value}) has no {', '.join(missing)}: it is no pass of onnx_ocs")
    return kind


def make_passes(names: Sequence[str], options: Mapping[str, Any] | None = None) -> list[Pass]:
    """Passes by name, with their options.

    Args:
        names: in order.
        options: values by address, such as {"compensate.budget": 0.2}; those of passes that are not named are not used.

    Raises:
        UserError: there is no such pass or no such option, or the passes do not go together.
    """
    _check_together(names)
    made: list[Pass] = []
    for name in names:
        kind = find_pass(name)
        own = {k.removeprefix(f"{name}."): v for k, v in (options or {}).items() if k.startswith(f"{name}.")}
        unknown = own.keys() - {f.name for f in fields(kind)} if is_dataclass(kind) else own.keys()
        if unknown:
            raise UserError(f"the pass '{name}' has no option '{min(unknown)}'")
        made.append(kind(**own))
    return made


def _check_together(names: Sequence[str]) -> None:
    if {"translate", "split"} <= {*names}:
        raise UserError("the passes 'translate' and 'split' widen the same tensors: run each on the original")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"the pass '{name}' is named twice: a second run would change nothing")
