"""Numbers and names as people read them, in the table and on the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnx_ocs.errors import printable

__all__ = [
    "changed",
    "changed_share",
    "counted",
    "cut_name",
    "db_or_dash",
    "decibels",
    "declared",
    "from_to",
    "number",
    "percent",
    "readable",
    "shortened",
]

MOST = 400  # characters of a text in a table or a line; the report has all


def readable(value: Any) -> Any:
    """A report, or a part of one, for a terminal: no control characters, and long texts cut in the middle."""
    if isinstance(value, str):
        return printable(value if len(value) <= MOST else f"{value[: MOST // 2]} … {value[-MOST // 2 :]}")
    if isinstance(value, Mapping):
        return {readable(k): readable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(readable, value))
    return value


def number(value: Any) -> str:
    """A scale or X_clip: one number, or the range of a per-channel one."""
    if value is None:
        return ""
    if isinstance(value, list):
        low, high = f"{min(value, default=0):.4g}", f"{max(value, default=0):.4g}"
        return low if low == high else f"{low}..{high}"
    return f"{value:.4g}"


def shortened(name: str, width: int) -> str:
    """The end of a name that is longer than a column is wide."""
    return name if len(name) <= width else "…" + name[-(width - 1) :]


def percent(value: float | None) -> str:
    """A share as a percentage; nothing for None."""
    return "" if value is None else f"{100 * value:.2f} %"


def decibels(value: float | None) -> str:
    """Decibels; no difference at all for None."""
    return "identical" if value is None or value == float("inf") else f"{value:.2f} dB"


def changed(before: Any, after: Any) -> str:
    """Two numbers, or one where they are the same."""
    a, b = number(before), number(after)
    return a if a == b or not b else f"{a} → {b}"


def changed_share(before: float, after: float) -> str:
    """Two shares as percentages, or one where they are the same."""
    a, b = percent(before), percent(after)
    return a if a == b else f"{a} → {b}"


def db_or_dash(value: float | None) -> str:
    """Decibels, or a dash."""
    return "–" if value is None else f"{value:.2f} dB"


def from_to(before: float | None, after: float | None, unit: str, factor: float = 1.0) -> str:
    """Two values with one unit, which no line parts from its number."""
    values = ["–" if v is None else f"{factor * v:.2f}" for v in (before, after)]
    return f"{' → '.join(dict.fromkeys(values))}\N{NO-BREAK SPACE}{unit}"


def cut_name(tensor: str) -> str:
    """A name, cut in the middle when it is longer than anybody reads."""
    return tensor if len(tensor) <= 120 else f"{tensor[:60]} … {tensor[-50:]}"


def counted(n: int, word: str) -> str:
    """So many of something."""
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def declared(oracle: Mapping[str, Any]) -> str:
    """What a verified model declares, such as "3 changed steps, 1 branch"; only what there is."""
    kinds = (
        ("regridded_quantizers", "new grid", ""),
        ("translated_quantizers", "wide quantizer", ""),
        ("rescaled_quantizers", "changed step", ""),
        ("refitted_layers", "layer fitted again", "layers fitted again"),
        ("branches", "branch", "branches"),
    )
    found = ((oracle.get(key, 0), one, many) for key, one, many in kinds)
    return ", ".join(f"{n} {one if n == 1 else many or one + 's'}" for n, one, many in found if n) or "nothing"
