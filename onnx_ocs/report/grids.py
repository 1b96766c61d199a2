"""What people read of quantizers that get another grid, or should: one sentence for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnx_ocs.report.outputs import told_channels

__all__ = ["grid_lines", "told_grid"]

DONE = {
    "left out": "it is left out",
    "split": "each part of the Concat has a grid of its own",
    "new grid": "it has another grid",
    "unsigned": "its int8 are stored as uint8",
}
NAMED = 2  # quantizers that are named, of those that have lost their sign


def grid_lines(grids: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence for each entry of the report's `grids`.

    Args:
        grids: the entries.
    """
    signs = [g for g in grids if g["edit"] == "unsigned"]
    lines = [f"{_fault(g)}: {_done(g)}." for g in grids if g["edit"] != "unsigned"]
    return lines + ([_unsigned(signs)] if signs else [])


def _unsigned(grids: Sequence[Mapping[str, Any]]) -> str:
    """One sentence for all quantizers that have lost their sign, or would have."""
    names = ", ".join(f"'{g['tensor']}'" for g in grids[:NAMED])
    more = f" and {len(grids) - NAMED} more" if len(grids) > NAMED else ""
    reason = grids[0]["reason"]
    left = f": left alone, {reason['message']} ({reason['code']})" if reason else ""
    return (
        f"The int8 of {names}{more} {'could be' if reason else 'are'} stored as uint8, the same values: "
        f"layers find integer kernels for these in onnxruntime{left}."
    )


def _fault(g: Mapping[str, Any]) -> str:
    if not g["dead"]:
        return f"The zero-point {g['zero_point_before']} of '{g['tensor']}' wastes its range"
    channels = " and ".join(f"{told_channels(c)} of '{o}'" for o, c in g["dead"].items())
    step, largest = g["scale_before"], g["largest"]
    known = not isinstance(step, list) and largest is not None
    why = f"has a step of {step:.3g}, their values reach {largest:.3g}" if known else "has steps that are too large"
    return f"Dead channels {channels}: the quantizer of '{g['tensor']}' {why}"


def _done(g: Mapping[str, Any]) -> str:
    if g["status"] == "candidate":
        return "rewrite mends it (the pass regrid)"
    if g["status"] == "refused":
        return f"left alone, {g['reason']['message']} ({g['reason']['code']})"
    return told_grid(g)


def told_grid(g: Mapping[str, Any]) -> str:
    """What was done to a quantizer, in a few words.

    Args:
        g: an entry of the report's `grids` with the status "applied".
    """
    done = DONE[g["edit"]]
    return f"{done}, step {g['scale']:.3g}, zero-point {g['zero_point']}" if g["edit"] == "new grid" else done
