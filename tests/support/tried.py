"""What `auto` has tried: entries of a report, and qualities of an output or two."""

from __future__ import annotations

from typing import Any

from onnx_ocs.measurement.outputs import OutputQuality
from onnx_ocs.measurement.quality import Quality
from onnx_ocs.verbs.trials import Seen

__all__ = ["entry", "quality", "seen"]


def entry(name: str, gain: float, latency: float | None, status: str = "left", **more: Any) -> dict[str, Any]:
    return {
        "name": name, "passes": ["translate"], "sqnr_db": 10 + gain, "agreement": None, "gain_db": gain, "macs": 1.0,
        "latency": latency, "tolerance": None, "front": False, "status": status, "why": "" if status != "left" else "w",
    } | more  # fmt: skip


def quality(*decibels: float, metric: float | None = None) -> Quality:
    outputs = tuple(OutputQuality(f"y{k}", "values", db) for k, db in enumerate(decibels))
    return Quality(decibels[0], None, 8, outputs, metric)


def seen(first: float, second: float, metric: float | None = None) -> Seen:
    whole = quality((first + second) / 2, metric=metric)
    return Seen(whole, (quality(first), quality(second)) if metric is None else (whole,))
