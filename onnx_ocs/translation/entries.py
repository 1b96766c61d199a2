"""The report's entries: what a pass did with each quantized activation, or why nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnx_ocs.model.nodes import label
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.region import Quantized, Region
from onnx_ocs.translation.decision import Decision, Widened

__all__ = ["entries", "entry"]


def entries(
    by: str, regions: Sequence[Quantized], decisions: Sequence[Decision | Refusal | None], widened: Sequence[Widened]
) -> list[dict[str, Any]]:
    """The entries of the pass called `by`; a region that only carries another's copies on counts as applied."""
    own = {id(w.decision): w for w in widened}
    carried = {t: w for w in widened for t in w.carried}
    return [
        entry(by, r, d, own.get(id(d)) if isinstance(d, Decision) else carried.get(r.tensor))
        for r, d in zip(regions, decisions, strict=True)
    ]


def entry(
    by: str, region: Quantized, decision: Decision | Refusal | None, widened: Widened | None = None
) -> dict[str, Any]:
    """The entry of the pass called `by` for one region."""
    q, walk = region.quantizer, region.walk if isinstance(region, Region) else None
    e: dict[str, Any] = {
        "status": "refused",
        "pass": by,
        "tensor": region.tensor,
        "quantizers": list(region.outputs),
        "axis": None if walk is None else walk.axis,
        "channels": None if walk is None else walk.channels,
        "activation": region.activation.kind,
        "producer": region.activation.producer,
        "scale_before": None if q is None else q.scale.tolist(),
        "scale": None if q is None else q.scale.tolist(),
        "zero_point": None if q is None else q.zero_point.tolist(),
        "qmin": None if q is None else q.qmin,
        "qmax": None if q is None else q.qmax,
        "x_clip": None if q is None else q.x_clip.tolist(),
        "copies": [],
        "copies_low": [],
        "mode": None,
        "full": False,
        "consumers": [] if walk is None else [label(n) for n in walk.weights],
        "reason": None,
    }
    if isinstance(decision, Decision) and widened is not None:
        e |= {
            "status": "applied",
            "copies": decision.copies.tolist(),
            "copies_low": decision.copies_low.tolist(),
            "mode": decision.mode,
            "full": decision.wide.full,
            "consumers": widened.consumers,
        }
    elif widened is not None:
        _, wide = next(widened.quantized[o] for o in region.outputs if o in widened.quantized)
        assert wide.grid is not None
        e["scale"] = wide.grid.scale.tolist()
        up, low = wide.copies()
        e |= {
            "status": "applied",
            "axis": wide.axis,
            "channels": wide.narrow,
            "copies": up.tolist(),
            "copies_low": low.tolist(),
            "mode": "carried",
        }
    elif isinstance(decision, Refusal):
        e["reason"] = decision.as_dict()
    return e
