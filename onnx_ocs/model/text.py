"""JSON that a file brings along, and that anybody may have written."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["from_json"]


def from_json(text: str | bytes) -> Any:
    """What JSON says.

    Args:
        text: any text.

    Raises:
        ValueError: it is no JSON, or lists in it lie within each other deeper than Python reads.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("lists within lists without end") from None
