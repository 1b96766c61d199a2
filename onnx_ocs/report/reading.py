"""Reading a report that was written before, by this version or an earlier one.

What a report must hold is said once, by the types (`onnx_ocs.report.schema`).  Earlier versions of the same schema lack
what was added since: that is null or empty here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from onnx_ocs.errors import UserError
from onnx_ocs.model.text import from_json
from onnx_ocs.report.entries import RegionEntry
from onnx_ocs.report.schema import SCHEMA, Report, json_schema

__all__ = ["read_report", "was_changed"]

PLAN = "onnx_ocs.plan/"  # how the schema of a plan file begins
LARGEST = 1 << 63  # no count or code is larger
REPORT = json_schema()
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "null": (type(None),),
    "array": (list,), "object": (dict,),
}  # fmt: skip
WORDS = {
    "string": "text", "integer": "an integer", "number": "a number", "boolean": "true or false", "null": "null",
    "array": "a list", "object": "an object",
}  # fmt: skip


class _Misfit(Exception):
    """A value that is not what the schema says; the message says where, and what it must be."""


def read_report(path: Path) -> Report:
    """Read a report.

    Args:
        path: a file that `--report` has written.

    Returns:
        The report, with all that this version expects.

    Raises:
        UserError: it cannot be read, or is no such report.
    """
    try:
        found = from_json(path.read_bytes())
    except OSError as e:
        raise UserError(f"{path}: cannot be read: {e.strerror}") from None
    except ValueError:  # also what is no UTF-8
        raise UserError(f"{path}: this is no JSON file; give a report that --report has written") from None
    said = found.get("schema") if isinstance(found, dict) else None
    if isinstance(said, str) and said.startswith(PLAN):
        raise UserError(f"{path}: this is a plan, not a report; `rewrite --plan` applies it")
    if said != SCHEMA:
        other = f"a report of another version ({said})" if str(said).startswith("onnx_ocs.report/") else "no report"
        raise UserError(f"{path}: this is {other}; give one of {SCHEMA}, which --report writes")
    try:
        report = cast(Report, _fitted(found, REPORT, ""))
        for misfit in _contradictions(report):
            raise _Misfit(misfit)
    except _Misfit as e:
        raise UserError(f"{path}: this report is damaged: {e}") from None
    return report


def was_changed(report: Mapping[str, Any]) -> bool:
    """Whether the run that the report is of has changed anything."""
    entries = (*report["regions"], *report["compensations"], *report["reconstructions"], *report.get("grids", ()))
    return report["verification"] is not None or any(e["status"] == "applied" for e in entries)


def _fitted(value: Any, schema: Mapping[str, Any], where: str) -> Any:
    """The value with what earlier versions lack, if it is what the schema says."""
    schema = _resolved(schema)
    if "anyOf" in schema:
        return _one_of(value, schema["anyOf"], where)
    if "enum" in schema or "const" in schema:
        allowed = schema.get("enum", [schema.get("const")])
        if value not in allowed:
            raise _Misfit(f"{where or 'it'} must be {' or '.join(map(str, allowed))}")
        return value
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(_is(value, k) for k in kinds):
        raise _Misfit(f"{where or 'it'} must be {' or '.join(WORDS[k] for k in kinds)}")
    if isinstance(value, list):
        return [_fitted(v, schema["items"], f"{where}[{k}]") for k, v in enumerate(value)]
    if isinstance(value, dict):
        return _entry(value, schema, where)
    return value


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool) and kind != "boolean":
        return False
    if isinstance(value, int) and abs(value) > LARGEST:
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, TYPES[kind])


def _resolved(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return REPORT["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _one_of(value: Any, parts: Sequence[Mapping[str, Any]], where: str) -> Any:
    """The first part that fits; where none does, the part of the value's own type says why."""
    told: list[str] = []
    for part in parts:
        try:
            return _fitted(value, part, where)
        except _Misfit as e:
            container = isinstance(value, (dict, list)) and _is(value, str(_resolved(part).get("type")))
            told.insert(0 if container else len(told), str(e))
    raise _Misfit(told[0])


def _entry(value: Mapping[str, Any], schema: Mapping[str, Any], where: str) -> dict[str, Any]:
    """An object: keys that no type names pass, and required ones that are missing are null, empty or false."""
    within = f"{where}." if where else ""
    if "properties" not in schema:
        return {k: _fitted(v, schema["additionalProperties"], within + k) for k, v in value.items()}
    made = dict(value)
    for name in schema["required"]:
        if name not in made:
            made[name] = _nothing(schema["properties"][name], within + name)
    return {k: _fitted(v, schema["properties"][k], within + k) if k in schema["properties"] else v
            for k, v in made.items()}  # fmt: skip


def _nothing(schema: Mapping[str, Any], where: str) -> Any:
    """What stands where a report says nothing."""
    kind = _resolved(schema).get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    if "null" in kinds or any(p.get("type") == "null" for p in schema.get("anyOf", ())):
        return None
    if "array" in kinds:
        return []
    if "object" in kinds:
        return {}
    if "boolean" in kinds:  # what nobody asked then did not happen
        return False
    raise _Misfit(f"{where} is missing")


def _contradictions(report: Report) -> Iterator[str]:
    """What tables and charts rely on, and no type says."""
    for k, r in enumerate(report["regions"]):
        drawn = r.get("histogram")
        if drawn is not None:
            low, high = drawn["range"] if len(drawn["range"]) == 2 else (0.0, 0.0)
            if not low < high or not drawn["counts"] or len(drawn["counts"]) != len(drawn["saved"]):
                yield f"regions[{k}].histogram must have a range, and two counts for every bin"
        if (drawn is not None or r["status"] != "refused") and not _has_grid(r):
            yield f"regions[{k}] must have steps above 0, a zero_point for each, qmin and qmax"
    plan = report.get("plan")
    if plan is not None and (plan["candidates"] or plan.get("sweep")) and len(plan.get("before", ())) != 2:
        yield "plan.before must be an objective and a SQNR"


def _has_grid(r: RegionEntry) -> bool:
    if r["qmin"] is None or r["qmax"] is None:
        return False
    scale, before, zero = ([] if v is None else _listed(v) for v in (r["scale"], r["scale_before"], r["zero_point"]))
    return 0 < len(scale) == len(before) == len(zero) and min(scale) > 0 and min(before) > 0


def _listed(value: float | list[float] | list[int]) -> list[float]:
    return [*value] if isinstance(value, list) else [value]
