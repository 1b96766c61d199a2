"""The report: one JSON schema for all verbs, versioned."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, cast

from onnx_ocs.measurement.cost import Cost
from onnx_ocs.measurement.latency import Compared
from onnx_ocs.measurement.quality import Quality
from onnx_ocs.report.entries import CompensationEntry, GridEntry, ReconstructionEntry, RegionEntry
from onnx_ocs.report.environment import environment
from onnx_ocs.report.measures import (
    CostEntry,
    LatencyEntry,
    OnTargetEntry,
    OutputEntry,
    QualityEntry,
    VerificationEntry,
)
from onnx_ocs.report.schema import SCHEMA, Report
from onnx_ocs.verification.verdict import Verification

__all__ = ["Entries", "assemble", "on_target", "to_json"]

Entries = Sequence[Mapping[str, Any]]


def assemble(
    verb: Literal["inspect", "plan", "rewrite", "verify"],
    seed: int,
    *,
    regions: Entries = (),
    compensations: Entries = (),
    reconstructions: Entries = (),
    grids: Entries = (),
    costs: tuple[Cost, Cost] | None = None,
    latency: Compared | None = None,
    limit: float | None = None,
    qualities: tuple[Quality, Quality] | None = None,
    reference: str | None = None,
    ranking: str | None = None,
    verification: Verification | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Put a report together (`onnx_ocs.report.schema` says what its fields mean).

    Args:
        verb: what was asked for.
        seed: of everything random.
        regions: one entry for each quantized activation; `x_clip_after` is added to each.
        compensations: one entry for each block.
        reconstructions: one entry for each layer with a quantized weight.
        grids: one entry for each quantizer that gets another grid, or should.
        costs: before and after.
        latency: time of one sample before and after, where it was measured.
        limit: the largest ratio of these that was asked for.
        qualities: before and after, against `reference`.
        reference: what the quality is measured against.
        ranking: where the channels' ranking comes from.
        verification: the result, if it was verified.
        notes: sentences for the reader.
    """
    return {
        "schema": SCHEMA,
        "verb": verb,
        "regions": [cast(RegionEntry, {**e, "x_clip_after": _x_clip_after(e)}) for e in regions],
        "compensations": [cast(CompensationEntry, dict(e)) for e in compensations],
        "reconstructions": [cast(ReconstructionEntry, dict(e)) for e in reconstructions],
        "grids": [cast(GridEntry, dict(e)) for e in grids],
        "outputs": _outputs(qualities),
        "cost": _cost(costs),
        "latency": _latency(latency, limit),
        "quality": _quality(qualities, reference),
        "ranking": ranking,
        "verification": None if verification is None else cast(VerificationEntry, verification.as_dict()),
        "notes": list(notes),
        "environment": environment(seed),
    }


def on_target(runtime: str, before: Quality, after: Quality) -> OnTargetEntry:
    """What both models are worth in the runtime that the file is for.

    Args:
        runtime: its name.
        before: the model that was rewritten.
        after: the rewritten one.
    """
    return {"runtime": runtime, "outputs": _outputs((before, after))}


def _outputs(qualities: tuple[Quality, Quality] | None) -> list[OutputEntry]:
    """One entry for each graph output that has a counterpart in the reference."""
    if qualities is None:
        return []
    before, after = qualities
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
            "weight": now.weight,
        }
        for then, now in zip(before.outputs, after.outputs, strict=True)
    ]


def _cost(costs: tuple[Cost, Cost] | None) -> CostEntry:
    return {} if costs is None else cast(CostEntry, {**costs[0].as_dict("before"), **costs[1].as_dict("after")})


def _latency(latency: Compared | None, limit: float | None) -> LatencyEntry:
    names = ("before_ms", "after_ms", "ratio", "tolerance", "runtime")
    found = dict.fromkeys(names) if latency is None else asdict(latency)
    return cast(LatencyEntry, {**found, "limit": limit})


def _quality(qualities: tuple[Quality, Quality] | None, reference: str | None) -> QualityEntry:
    before, after = qualities or (None, None)
    entry: QualityEntry = {
        "sqnr_before_db": None if before is None else before.sqnr_db,
        "sqnr_after_db": None if after is None else after.sqnr_db,
        "agreement_before": None if before is None else before.agreement,
        "agreement_after": None if after is None else after.agreement,
        "samples": None if before is None else before.samples,
        "reference": reference,
    }
    if before is not None and after is not None and before.metric is not None and after.metric is not None:
        entry |= {"metric_before": before.metric, "metric_after": after.metric}
    return entry


def _x_clip_after(e: Mapping[str, Any]) -> float | list[float] | None:
    """The largest value that step and copies express, of the channel with most copies; shaped as `scale`."""
    if e.get("scale") is None or e.get("qmax") is None:
        return None
    most = 1 + max(e["copies"], default=0)
    if e.get("full"):
        return float(((most - 1) * (e["qmax"] - e["qmin"]) + e["qmax"] - e["zero_point"]) * e["scale"])
    if not isinstance(e["scale"], list):
        return float(most * (e["qmax"] - e["zero_point"]) * e["scale"])
    return [most * (e["qmax"] - z) * s for s, z in zip(e["scale"], e["zero_point"], strict=True)]


def to_json(report: Mapping[str, Any]) -> str:
    """The report as text; infinities and NaN become null, which JSON has no other word for."""

    def clean(v: Any) -> Any:
        if isinstance(v, dict):
            return {k: clean(x) for k, x in v.items()}
        if isinstance(v, (list, tuple)):
            return [clean(x) for x in v]
        if isinstance(v, float) and (v != v or v in (float("inf"), float("-inf"))):
            return None
        return v

    return json.dumps(clean(report), indent=1) + "\n"
