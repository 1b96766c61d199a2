"""What a rewrite starts from, and what is known of it so far: frozen, so that every step makes a new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from onnx_ocs.calibration.context import Context
from onnx_ocs.measurement.latency import Compared
from onnx_ocs.measurement.quality import Quality
from onnx_ocs.passmanager import PLACES
from onnx_ocs.planning.plan import Plan
from onnx_ocs.verification.verdict import Verification

__all__ = ["Outcome", "Prepared", "in_part", "taken_back"]

Entries = tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Prepared:
    """What a rewrite starts from.

    Attributes:
        original: the model; never changed.
        path: the file that it was read from; None for a model in memory.
        context: samples, seed, progress, the float model.
        notes: what is worth knowing about the model.
        converted: whether it is another one than that of the file: integer operators were converted to QDQ.
    """

    original: onnx.ModelProto
    path: Path | None
    context: Context
    notes: tuple[str, ...]
    converted: bool = False


@dataclass(frozen=True)
class Outcome:
    """What is known of a rewrite so far.

    Attributes:
        model: the rewritten model, or the original.
        changed: whether it is another one than the original.
        regions: the report's entries, one for each quantized activation.
        compensations: the report's entries, one for each block.
        reconstructions: the report's entries, one for each layer with a quantized weight.
        notes: sentences for the user.
        planned: what the planner found; empty where nothing was planned.
        plan: what it planned; None where nothing was planned.
        qualities: before and after; None without samples.
        against: what the quality is measured against.
        verification: None where nothing was verified.
        latency: time of one sample before and after; None where it was not measured.
        grids: the report's entries, one for each quantizer that gets another grid, or should.
    """

    model: onnx.ModelProto
    changed: bool
    regions: Entries = ()
    compensations: Entries = ()
    reconstructions: Entries = ()
    notes: tuple[str, ...] = ()
    planned: Mapping[str, Any] = field(default_factory=dict)
    plan: Plan | None = None
    qualities: tuple[Quality, Quality] | None = None
    against: str | None = None
    verification: Verification | None = None
    latency: Compared | None = None
    grids: Entries = ()

    def noting(self, *notes: str) -> Outcome:
        """The same with further notes."""
        return replace(self, notes=(*self.notes, *notes))


def taken_back(ready: Prepared, outcome: Outcome, lost: str) -> Outcome:
    """The outcome of a rewrite that is not applied, since it loses.

    Args:
        ready: what it started from.
        outcome: with the qualities of both models.
        lost: where it loses, and how much (`losing`).
    """
    why = f"the rewrite lost on the calibration data ({lost}), so it was not applied"
    before = None if outcome.qualities is None else outcome.qualities[0]
    return replace(
        _dropped(outcome, why),
        model=ready.original,
        changed=False,
        qualities=None if before is None else (before, before),
    ).noting(why)


def in_part(whole: Outcome, part: Outcome, dropped: str, lost: str) -> Outcome:
    """The outcome of a part of a rewrite that loses as a whole.

    Args:
        whole: what loses.
        part: what is applied in its place, which does not lose.
        dropped: what the part goes without, in words.
        lost: where the whole loses, and how much (`losing`).
    """
    why = f"with {dropped} the rewrite lost on the calibration data ({lost}), so that was left out"
    left = _dropped(whole, why)
    return replace(
        part,
        regions=part.regions or left.regions,
        compensations=part.compensations or left.compensations,
        reconstructions=part.reconstructions or left.reconstructions,
        grids=part.grids or left.grids,
        planned=part.planned or whole.planned,
    ).noting(why)


def _dropped(outcome: Outcome, why: str) -> Outcome:
    """The outcome in whose entries nothing is applied any more."""
    return replace(
        outcome,
        regions=_refused(outcome.regions, why),
        compensations=_refused(outcome.compensations, why),
        reconstructions=_refused(outcome.reconstructions, why),
        grids=_refused(outcome.grids, why),
    )


def _refused(entries: Entries, why: str) -> Entries:
    """Entries in which nothing is applied any more."""

    def taken_back(e: Mapping[str, Any]) -> Mapping[str, Any]:
        node = next(e[k] for k in PLACES if k in e)
        return {**e, "status": "refused", "reason": {"code": "loses", "message": why, "node": node}}

    return tuple(taken_back(e) if e["status"] == "applied" else e for e in entries)
