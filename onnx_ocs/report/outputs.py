"""The report's row of every graph output."""

from __future__ import annotations

from typing import Any

from onnx_ocs.measurement.quality import Quality

__all__ = ["output_entries"]


def output_entries(before: Quality, after: Quality) -> list[dict[str, Any]]:
    """One entry for each graph output that has a counterpart in the reference."""
    return [
        {
            "name": now.name,
            "kind": now.kind,
            "sqnr_before_db": then.sqnr_db,
            "sqnr_after_db": now.sqnr_db,
            "agreement_before": then.agreement,
            "agreement_after": now.agreement,
            "constant_channels_before": list(then.constant_channels),
            "constant_channels": list(now.constant_channels),
            "groups": [
                {"channels": list(g.channels), "sqnr_before_db": g.sqnr_db, "sqnr_after_db": h.sqnr_db}
                for g, h in zip(then.groups, now.groups, strict=True)
            ],
            "samples": after.samples,
        }
        for then, now in zip(before.outputs, after.outputs, strict=True)
    ]
