"""Numbers and names as people read them, in the table and on the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnx_ocs.errors import printable

__all__ = ["readable"]

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


def _number(value: Any) -> str:
    """A scale or X_clip: one number, or the range of a per-channel one."""
    if value is None:
        return ""
    if isinstance(value, list):
        low, high = f"{min(value, default=0):.4g}", f"{max(value, default=0):.4g}"
        return low if low == high else f"{low}..{high}"
    return f"{value:.4g}"


def _short(name: str, width: int) -> str:
    return name if len(name) <= width else "…" + name[-(width - 1) :]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def _decibels(value: float | None) -> str:
    return "identical" if value is None or value == float("inf") else f"{value:.2f} dB"


def _change(before: Any, after: Any) -> str:
    a, b = _number(before), _number(after)
    return a if a == b or not b else f"{a} → {b}"


def _db(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} dB"


def _range(before: float | None, after: float | None, unit: str, factor: float = 1.0) -> str:
    """Two values with one unit."""
    values = ["–" if v is None else f"{factor * v:.2f}" for v in (before, after)]
    return f"{' → '.join(dict.fromkeys(values))} {unit}"


def _name(tensor: str) -> str:
    """A name, cut in the middle when it is longer than anybody reads."""
    return tensor if len(tensor) <= 120 else f"{tensor[:60]} … {tensor[-50:]}"


def _count(n: int, word: str) -> str:
    return f"{n:,} {word}{'' if n == 1 else 's'}"
