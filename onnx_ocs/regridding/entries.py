"""The report's entries of quantizers that kill channels of outputs, or are stored otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.region import Quantized, Region
from onnx_ocs.regridding.bits16 import type_16
from onnx_ocs.regridding.dead import Dead
from onnx_ocs.regridding.grids import Extremes, Grid, current, killed
from onnx_ocs.regridding.mend import Mended
from onnx_ocs.regridding.octaves import Chosen

__all__ = ["gains_entry", "killer_entry", "sixteen_entry", "unsigned_entry"]


def killer_entry(
    by: str, region: Quantized, dead: Dead, mended: Mended | None, seen: Mapping[str, Extremes]
) -> dict[str, Any]:
    """One quantizer that kills channels.

    Args:
        by: the pass.
        region: the quantizer's.
        dead: what it kills.
        mended: what became of it; None where that was not asked.
        seen: extremes of tensors.
    """
    q = region.quantizer
    assert q is not None
    what = None if mended is None else mended.done[region.key]
    grid = None if mended is None else mended.grids.get(region.key)
    reason = what if isinstance(what, Refusal) else None
    return {
        **_entry(by, region, "candidate" if mended is None else "applied" if reason is None else "refused"),
        "dead": {o: list(c) for o, c in dead.items()},
        "edit": None if reason is not None else what,
        "scale": q.scale.tolist() if grid is None else grid.scale,
        "zero_point": q.zero_point.tolist() if grid is None else grid.zero_point,
        "largest": _largest(q, seen.get(region.tensor)),
        "reason": None if reason is None else reason.as_dict(),
    }


def gains_entry(by: str, chosen: Chosen) -> dict[str, Any]:
    """One quantizer whose channels have gains.

    Args:
        by: the pass.
        chosen: the gains.
    """
    region, octaves = chosen.absorbing.region, chosen.octaves
    q = region.quantizer
    return {
        **_entry(by, region, "applied"),
        "dead": {},
        "edit": "gains",
        "scale": q.scale.tolist(),
        "zero_point": q.zero_point.tolist(),
        "largest": None,
        "reason": None,
        "octaves": [int(octaves.min()), int(octaves.max())],
        "error_db": float(10 * np.log10(chosen.smaller)),
    }


def unsigned_entry(by: str, before: Region, now: Region) -> dict[str, Any]:
    """One quantizer whose integers are stored without a sign.

    Args:
        by: the pass.
        before: the quantizer's region, as it was.
        now: with the grid that it has.
    """
    q = now.quantizer
    return {
        **_entry(by, before, "applied"),
        "dead": {},
        "edit": "unsigned",
        "scale": q.scale.tolist(),
        "zero_point": q.zero_point.tolist(),
        "largest": None,
        "reason": None,
    }


def sixteen_entry(by: str, region: Quantized, grid: Grid | None, reason: Refusal | None = None) -> dict[str, Any]:
    """One quantizer that has 16 bits, or should.

    Args:
        by: the pass.
        region: the quantizer's, as it was.
        grid: of 16 bits; None where it stays.
        reason: why it stays.
    """
    q = region.quantizer
    assert q is not None
    entry = {
        **_entry(by, region, "applied" if grid is not None else "refused"),
        "dead": {},
        "edit": "bits16",
        "scale": q.scale.tolist() if grid is None else grid.scale,
        "zero_point": q.zero_point.tolist() if grid is None else grid.zero_point,
        "largest": None,
        "reason": None if reason is None else reason.as_dict(),
    }
    if grid is None:
        return entry
    kind = type_16(q)
    limits = np.iinfo(kind)
    return {
        **entry,
        "type_before": q.dtype.name,
        "type": kind.name,
        "range_before": [-float(q.x_low.max()), float(q.x_clip.max())],
        "range": [float((z - grid.zero_point) * grid.scale) for z in (limits.min, limits.max)],
    }


def _entry(by: str, region: Quantized, status: str) -> dict[str, Any]:
    """What all entries say of a quantizer as it was."""
    q = region.quantizer
    assert q is not None
    return {
        "pass": by,
        "status": status,
        "tensor": region.tensor,
        "quantizers": list(region.outputs),
        "scale_before": q.scale.tolist(),
        "zero_point_before": q.zero_point.tolist(),
    }


def _largest(q: Quantizer, seen: Extremes | None) -> float | None:
    """The largest value of the channels that are constant behind a quantizer."""
    if seen is None or q.scale.size != 1:
        return None if seen is None else seen.largest
    lost = killed(q, current(q), seen)
    return Extremes(seen.low[lost], seen.high[lost]).largest if lost.any() else seen.largest
