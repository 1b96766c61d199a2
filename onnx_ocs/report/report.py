"""The report: one JSON schema for all verbs, versioned."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnx_ocs.measurement.cost import Cost
from onnx_ocs.measurement.quality import Quality
from onnx_ocs.report.environment import package_version
from onnx_ocs.report.outputs import output_entries
from onnx_ocs.verification.verdict import Verification

__all__ = ["SCHEMA", "assemble", "environment", "to_json"]

SCHEMA = "onnx_ocs.report/1"
CPU_FLAGS = ("avx", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm")


def _cpu_flags() -> list[str]:
    """Instruction sets that decide which integer kernels run (Linux only; empty elsewhere)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return []
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            found = set(line.split(":", 1)[1].split())
            return [f for f in CPU_FLAGS if f in found]
    return []


def environment(seed: int) -> dict[str, Any]:
    """Versions and hardware that results depend on."""
    return {
        "onnx_ocs": package_version("onnx-ocs"),
        "onnxruntime": package_version("onnxruntime"),
        "onnx": package_version("onnx"),
        "numpy": package_version("numpy"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu_flags": _cpu_flags(),
        "seed": seed,
    }


def assemble(
    verb: str,
    seed: int,
    regions: Sequence[Mapping[str, Any]] = (),
    costs: tuple[Cost, Cost] | None = None,
    qualities: tuple[Quality, Quality] | None = None,
    reference: str | None = None,
    ranking: str | None = None,
    verification: Verification | None = None,
    notes: Sequence[str] = (),
    compensations: Sequence[Mapping[str, Any]] = (),
    latency: Sequence[float] | None = None,
    reconstructions: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Put a report together (see `design` in the README for the meaning of the fields).

    Args:
        verb: "inspect", "rewrite" or "verify".
        seed: of everything random.
        regions: one entry for each quantized activation; `x_clip_after` is added to each.
        costs: before and after.
        qualities: before and after, against `reference`.
        reference: what the quality is measured against.
        ranking: where the channels' ranking comes from.
        verification: the result, if it was verified.
        notes: sentences for the reader.
        compensations: one entry for each block.
        latency: milliseconds of one sample before and after, where it was measured.
        reconstructions: one entry for each layer with a quantized weight.
    """
    quality: dict[str, Any] = dict.fromkeys(
        ("sqnr_before_db", "sqnr_after_db", "agreement_before", "agreement_after", "samples", "reference")
    )
    if qualities is not None:
        before, after = qualities
        quality = {
            "sqnr_before_db": before.sqnr_db,
            "sqnr_after_db": after.sqnr_db,
            "agreement_before": before.agreement,
            "agreement_after": after.agreement,
            "samples": before.samples,
            "reference": reference,
        }
    before_ms, after_ms = latency or (None, None)
    ratio = after_ms / before_ms if before_ms and after_ms else None
    return {
        "schema": SCHEMA,
        "verb": verb,
        "regions": [{**e, "x_clip_after": _x_clip_after(e)} for e in regions],
        "compensations": [dict(e) for e in compensations],
        "reconstructions": [dict(e) for e in reconstructions],
        "outputs": [] if qualities is None else output_entries(*qualities),
        "cost": {} if costs is None else {**costs[0].as_dict("before"), **costs[1].as_dict("after")},
        "latency": {"before_ms": before_ms, "after_ms": after_ms, "ratio": ratio},
        "quality": quality,
        "ranking": ranking,
        "verification": None if verification is None else verification.as_dict(),
        "notes": list(notes),
        "environment": environment(seed),
    }


def _x_clip_after(e: Mapping[str, Any]) -> Any:
    """The largest value that step and copies express, of the channel with most copies; shaped as `scale`."""
    if e.get("scale") is None or e.get("qmax") is None:
        return None
    most = 1 + max(e["copies"], default=0)
    if not isinstance(e["scale"], list):
        return most * (e["qmax"] - e["zero_point"]) * e["scale"]
    return [most * (e["qmax"] - z) * s for s, z in zip(e["scale"], e["zero_point"], strict=True)]


def to_json(report: dict[str, Any]) -> str:
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
