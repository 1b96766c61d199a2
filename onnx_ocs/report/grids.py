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
    "bits16": "it has 16 bits",
    "gains": "its channels have gains",
}
NAMED = 2  # quantizers that are named, of those to which the same was done
WIDER = 1.02  # by what a range is more than rounded
TOGETHER = ("unsigned", "bits16", "gains")  # what is done to many


def grid_lines(grids: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence for each entry of the report's `grids`.

    Args:
        grids: the entries.
    """
    signs, shorts, gains = ([g for g in grids if g["edit"] == edit] for edit in TOGETHER)
    lines = [f"{_fault(g)}: {_done(g)}." for g in grids if g["edit"] not in TOGETHER]
    return lines + ([_gains(gains)] if gains else []) + ([_unsigned(signs)] if signs else []) + _sixteen(shorts)


def _names(grids: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The first tensors by name, and how many more there are."""
    names = ", ".join(f"'{g['tensor']}'" for g in grids[:NAMED])
    return names, f" and {len(grids) - NAMED} more" if len(grids) > NAMED else ""


def _gains(grids: Sequence[Mapping[str, Any]]) -> str:
    """One sentence for all tensors whose channels have gains."""
    names, more = _names(grids)
    least, most = min(g["octaves"][0] for g in grids), max(g["octaves"][1] for g in grids)
    won = sorted(g["error_db"] for g in grids)
    return (
        f"Channels of {names}{more} are 2^{least} to 2^{most} times what they were, and the layers behind divide by "
        f"that: their rounding errors are {won[len(won) // 2]:.1f} dB smaller (median), at no cost."
    )


def _sixteen(grids: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for the quantizers that have 16 bits, and one for each reason why others cannot have them."""
    lines = []
    for code in dict.fromkeys(g["reason"] and g["reason"]["code"] for g in grids):
        same = [g for g in grids if (g["reason"] and g["reason"]["code"]) == code]
        names, more = _names(same)
        if code is None:
            sizes = [[g[key][1] - g[key][0] for key in ("range_before", "range")] for g in same]
            wider = sum(now > WIDER * before for before, now in sizes)
            told = f", {wider} of them over a wider range" if wider else ""
            lines.append(f"{names}{more}: 16 bits in place of 8 or fewer{told}.")
        else:
            lines.append(f"{names}{more}: no 16 bits, {same[0]['reason']['message']} ({code}).")
    return lines


def _unsigned(grids: Sequence[Mapping[str, Any]]) -> str:
    """One sentence for all quantizers that have lost their sign, or would have."""
    names, more = _names(grids)
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
