"""The rows that people read of every output: the output itself, groups of its channels, and channels that are dead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["every_row", "output_rows", "told_channels"]

SHOWN = 8  # runs of channels that are named


def every_row(outputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is known of every output.

    Args:
        outputs: the report's entries.

    Returns:
        The entries, and one of the same keys for each group of channels; `dead` names the channels that never change,
        and should.
    """
    return [row for o in outputs for row in _rows(o)]


def output_rows(outputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table of outputs: `every_row`; none where the one figure of the whole model says it all."""
    rows = every_row(outputs)
    return rows if len(rows) > 1 or any(r["dead"] for r in rows) else []


def _rows(o: Mapping[str, Any]) -> list[dict[str, Any]]:
    group = {"kind": "", "agreement_before": None, "agreement_after": None, "dead": ""}
    return [
        {**o, "dead": told_channels(o["constant_channels"])},
        *({**g, **group, "name": f"{o['name']}, channels {told_channels(g['channels'])}"} for g in o["groups"]),
    ]


def told_channels(numbers: Sequence[int]) -> str:
    """Channel numbers, cut short; runs as "4..83".

    Args:
        numbers: ascending.
    """
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], n]
        else:
            runs.append([n])
    told = [str(r[0]) if len(r) == 1 else f"{r[0]}..{r[1]}" for r in runs[:SHOWN]]
    return ", ".join(told) + (", …" if len(runs) > SHOWN else "")
