"""How an option is written down: once, in the field of the class that it belongs to.

    budget: float = option(0.1, "Most extra MACs of all branches.", flag="--nbc-budget", low=0.0, high=32.0)

The field says name, type and default; `option` adds what a person must be told.  The command line, its help and
`docs/options.md` are made from such fields (`onnx_ocs.cli.options`).  A field without `option` is for Python only.
Nothing heavy is imported here, nor by a module that holds options: `--help` must not wait for onnxruntime.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

__all__ = ["Option", "option", "required"]

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """What the command line and the documentation say of a field.  Classes that share an option share one of these.

    Attributes:
        help: what it does, in a sentence or two.
        flag: its name on the command line; default: "--" and the field's name.
        short: a second, short name, such as "-q".
        metavar: what stands for the value in the help.
        low: the least number that is allowed.
        high: the largest number that is allowed.
        shown: what the help says in place of the default.
        panel: the help's section; default: the class's `panel`.
        counted: whether the flag takes no value, and its number of uses is the value.
    """

    help: str
    flag: str = ""
    short: str = ""
    metavar: str = ""
    low: float | None = None
    high: float | None = None
    shown: str = ""
    panel: str = ""
    counted: bool = False


def option(default: T, help: str | Option, **more: Any) -> T:
    """A dataclass field that is an option.

    Args:
        default: the value where nobody says otherwise; it can be shared, so nothing mutable.
        help: what it does, or an `Option` that several classes share.
        **more: the other attributes of `Option`.
    """
    made: T = field(default=default, metadata=_metadata(help, more))
    return made


def required(help: str | Option, **more: Any) -> Any:
    """A dataclass field that is an option without a default: it must be given."""
    return field(metadata=_metadata(help, more))


def _metadata(help: str | Option, more: dict[str, Any]) -> dict[str, Any]:
    """What `Option(**metadata)` makes the option of again."""
    return dict(vars(help if isinstance(help, Option) else Option(help, **more)))
