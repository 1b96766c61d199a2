"""Nothing is rewritten for +0.00 dB: every change has a price, in bytes and in trust."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from onnx_ocs.measurement.gain import gains
from onnx_ocs.passmanager import PLACES
from onnx_ocs.verbs.outcome import Outcome, Prepared

__all__ = ["without_gain"]

WHY = "the rewrite brings +0.00 dB at every output on the calibration data, so it was not applied"


def without_gain(ready: Prepared, outcome: Outcome) -> Outcome:
    """The outcome, or that of a rewrite that is not applied, since no output comes closer to the reference.

    Args:
        ready: what the rewrite started from.
        outcome: with the qualities of both models; without, nobody knows.
    """
    if outcome.qualities is None or not outcome.changed or gains(*outcome.qualities):
        return outcome
    before = outcome.qualities[0]
    entries = outcome.regions, outcome.compensations, outcome.reconstructions, outcome.grids
    regions, compensations, reconstructions, grids = (tuple(map(_refused, e)) for e in entries)
    return replace(
        outcome, model=ready.original, changed=False, regions=regions, compensations=compensations,
        reconstructions=reconstructions, grids=grids, qualities=(before, before),
    ).noting(WHY)  # fmt: skip


def _refused(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    if entry["status"] != "applied":
        return entry
    node = next(entry[k] for k in PLACES if k in entry)
    return {**entry, "status": "refused", "reason": {"code": "no_difference", "message": WHY, "node": node}}
