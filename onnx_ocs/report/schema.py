"""The report as a type, and the JSON schema that is made from it.

    python -m onnx_ocs.report.schema > docs/report.schema.json

Keys are only ever added to `onnx_ocs.report/1`: whoever reads it must let further ones pass.
"""

from __future__ import annotations

import json
import re
import sys
import types
from typing import Any, Literal, NotRequired, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict

from onnx_ocs.report.entries import CompensationEntry, GridEntry, ReconstructionEntry, RegionEntry
from onnx_ocs.report.measures import (
    CostEntry,
    EnvironmentEntry,
    LatencyEntry,
    OnTargetEntry,
    OutputEntry,
    QualityEntry,
    VerificationEntry,
)
from onnx_ocs.report.plans import LossEntry, PlanEntry, TargetEntry
from onnx_ocs.report.trials import TrialsEntry
from onnx_ocs.report.verdict import VerdictEntry

__all__ = ["SCHEMA", "Report", "json_schema"]

SCHEMA = "onnx_ocs.report/1"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n        .*)*)", re.M)


class Report(TypedDict):
    """What a verb of onnx_ocs found and did.

    Attributes:
        schema: the version of this format.
        verb: what was asked for.
        title: what it is about: the names of the files.
        regions: one entry for each quantized activation.
        compensations: one entry for each block.
        reconstructions: one entry for each layer with a quantized weight.
        grids: one entry for each quantizer that gets another grid, or should.
        outputs: one entry for each graph output; empty without calibration samples.
        cost: before and after; empty for `plan`.
        latency: before and after.
        quality: of the first output; all null without calibration samples.
        ranking: where the order of the channels comes from.
        verification: null where nothing was verified.
        notes: sentences for the reader.
        environment: versions and hardware.
        plan: what the planner found.
        target: the quality that was to be reached.
        on_target: the outputs in the runtime that the file is for, where that is not onnxruntime.
        loss: where the loss comes from (`inspect`).
        trials: what `--passes auto` has tried.
        verdict: what was done, brought and costs, what still hurts, and what to try next (`inspect`, `rewrite`).
    """

    schema: str
    verb: Literal["inspect", "plan", "rewrite", "verify"]
    title: NotRequired[str]
    regions: list[RegionEntry]
    compensations: list[CompensationEntry]
    reconstructions: list[ReconstructionEntry]
    grids: list[GridEntry]
    outputs: list[OutputEntry]
    cost: CostEntry
    latency: LatencyEntry
    quality: QualityEntry
    ranking: str | None
    verification: VerificationEntry | None
    notes: list[str]
    environment: EnvironmentEntry
    plan: NotRequired[PlanEntry]
    target: NotRequired[TargetEntry]
    on_target: NotRequired[OnTargetEntry]
    loss: NotRequired[LossEntry]
    trials: NotRequired[TrialsEntry]
    verdict: NotRequired[VerdictEntry]


def json_schema(closed: bool = False) -> dict[str, Any]:
    """The JSON schema of a report.

    Args:
        closed: whether keys that no type names are errors; the published schema is open, since keys are added.

    Returns:
        The schema, as JSON has it; the entries are under `$defs`.
    """
    found: dict[str, Any] = {}
    reference = _of(Report, found, closed)
    found["Report"]["properties"]["schema"]["const"] = SCHEMA
    return {
        "$schema": DIALECT,
        "$comment": "python -m onnx_ocs.report.schema > docs/report.schema.json",
        "title": SCHEMA,
        **reference,
        "$defs": {name: found[name] for name in sorted(found)},
    }


def _of(kind: Any, found: dict[str, Any], closed: bool) -> dict[str, Any]:
    """The schema of one type; those of entries are added to `found` and referred to."""
    if kind in JSON_TYPES:
        return {"type": JSON_TYPES[kind]}
    if is_typeddict(kind):
        if kind.__name__ not in found:
            found[kind.__name__] = {}  # so that entries may contain each other
            found[kind.__name__] = _entry(kind, found, closed)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"enum": list(args)}
    if origin is list:
        return {"type": "array", "items": _of(args[0], found, closed)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(args[1], found, closed)}
    if origin in (Union, types.UnionType):
        parts = [_of(a, found, closed) for a in args]
        simple = all(p.keys() == {"type"} for p in parts)
        return {"type": [p["type"] for p in parts]} if simple else {"anyOf": parts}
    raise TypeError(f"no JSON schema for {kind}")


def _entry(kind: Any, found: dict[str, Any], closed: bool) -> dict[str, Any]:
    words, properties, required = _attributes(kind.__doc__ or ""), {}, []
    for name, hint in get_type_hints(kind, include_extras=True).items():
        optional = get_origin(hint) is NotRequired
        described = _of(get_args(hint)[0] if optional else hint, found, closed)
        properties[name] = {**described, "description": words[name]}
        if kind.__total__ and not optional:
            required.append(name)
    first = (kind.__doc__ or "").split("\n", 1)[0]
    entry = {"type": "object", "description": first, "properties": properties, "required": required}
    return {**entry, "additionalProperties": False} if closed else entry


def _attributes(doc: str) -> dict[str, str]:
    """What a docstring says of each attribute."""
    _, _, text = doc.partition("Attributes:\n")
    indented = "\n".join(line.removeprefix("    ") for line in text.splitlines())
    return {name: " ".join(words.split()) for name, words in ATTRIBUTE.findall(indented)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(json_schema(), indent=1) + "\n")
