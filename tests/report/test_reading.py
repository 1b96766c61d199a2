"""Reports that were written before: those of earlier versions can be read, damaged ones are refused in one sentence."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onnx_ocs.errors import UserError
from onnx_ocs.report.reading import read_report, was_changed
from onnx_ocs.report.report import assemble, to_json

OLD = Path(__file__).resolve().parents[1] / "data" / "report_0.1.0.json"  # written by version 0.1.0


def read(tmp_path: Path, value: Any) -> Any:
    path = tmp_path / "r.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return read_report(path)


def old() -> Any:
    return json.loads(OLD.read_text(encoding="utf-8"))


def test_what_an_earlier_version_lacks_is_empty() -> None:
    report, written = read_report(OLD), old()
    assert "outputs" not in written and "reconstructions" not in written
    assert report["outputs"] == [] and report["reconstructions"] == []
    assert report["quality"] == written["quality"]
    assert report["regions"] == [{**r, "full": False} for r in written["regions"]]


LATENCY = ("before_ms", "after_ms", "ratio", "tolerance", "limit")


@pytest.mark.parametrize("key", ["latency", "compensations", "notes", "ranking", "verification"])
def test_keys_of_the_first_day_may_be_missing(tmp_path: Path, key: str) -> None:
    report = old()
    del report[key]
    nothing = {"latency": dict.fromkeys(LATENCY), "compensations": [], "notes": []}
    assert read(tmp_path, report)[key] == nothing.get(key)


def test_a_new_report_is_read_as_it_is(tmp_path: Path) -> None:
    report = json.loads(to_json(assemble("inspect", 3, notes=["a note"])))
    assert read(tmp_path, {**report, "of_a_later_version": {"x": 1}}) == {**report, "of_a_later_version": {"x": 1}}


def test_whether_anything_was_changed() -> None:
    report = read_report(OLD)
    assert was_changed(report)
    unverified: Any = {**report, "verification": None}
    assert was_changed(unverified)
    unverified |= {"regions": [r for r in report["regions"] if r["status"] == "refused"], "compensations": []}
    assert not was_changed(unverified)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "this is no JSON file"),
        ("{", "this is no JSON file"),
        ("[" * 100_000, "this is no JSON file"),
        ("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "this is no JSON file"),
        ("[]", "this is no report"),
        ('{"schema": "onnx_ocs.plan/1"}', "this is a plan, not a report"),
        ('{"schema": "onnx_ocs.report/2"}', r"a report of another version \(onnx_ocs.report/2\)"),
        ('{"schema": ["x"]}', "this is no report"),
        ('{"schema": "onnx_ocs.report/1"}', "this report is damaged: verb is missing"),
    ],
)
def test_what_is_no_report(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.json", tmp_path):
        with pytest.raises(UserError, match="cannot be read: "):
            read_report(path)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("regions", 2, "tensor"), 5, r"regions\[2\].tensor must be text"),
        (("regions", 0, "copies"), [1, True], r"regions\[0\].copies\[1\] must be an integer"),
        (("regions", 0, "scale"), [0.1, "x"], r"regions\[0\].scale\[1\] must be a number"),
        (("regions", 0, "scale"), 0.0, r"regions\[0\] must have steps above 0"),
        (("regions", 0, "zero_point"), [0, 0], r"regions\[0\] must have .* a zero_point for each"),
        (("regions", 0, "qmax"), None, r"regions\[0\] must have .* qmin and qmax"),
        (("regions", 1, "histogram"), {"range": [1.0, 1.0], "counts": [1], "saved": [1]}, "must have a range"),
        (("regions", 1, "histogram"), {"range": [0.0, 1.0], "counts": [1], "saved": []}, "two counts for every bin"),
        (("regions", 2, "reason"), {"code": "x"}, r"regions\[2\].reason.message is missing"),
        (("environment", "seed"), None, "environment.seed must be an integer"),
        (("quality", "sqnr_after_db"), float("nan"), "quality.sqnr_after_db must be a number or null"),
        (("cost", "macs_after"), 10**300, "cost.macs_after must be an integer"),
        (("plan", "before"), [1.0], "plan.before must be"),
        (("verification",), [], "verification must be an object"),
    ],
)  # fmt: skip
def test_damage_is_named_with_its_place(tmp_path: Path, place: tuple[Any, ...], value: Any, said: str) -> None:
    report = old()
    inner = report
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(UserError, match=f"r.json: this report is damaged: .*{said}") as e:
        read(tmp_path, report)
    assert len(str(e.value).splitlines()) == 1


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key and index of a report, the first of each list."""
    items = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from places(inner, (*at, key))


def test_whatever_is_damaged_is_refused_or_can_be_shown(tmp_path: Path) -> None:
    """Each value of a report in turn is another one: nothing but a UserError stops the table."""
    from rich.console import Console

    from onnx_ocs.report.terminal import show_rewrite, verdict

    whole = old()
    whole["regions"], whole["compensations"] = whole["regions"][:2], whole["compensations"][:1]
    refused = shown = 0
    with Path("/dev/null").open("w", encoding="utf-8") as nowhere:
        console = Console(file=nowhere, width=100)
        for k, place in enumerate(places(whole)):
            damaged = copy.deepcopy(whole)
            inner = damaged
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = (None, -1, [], "x", {}, 1e308, ["", 0])[k % 7]
            try:
                report = read(tmp_path, damaged)
            except UserError:
                refused += 1
                continue
            show_rewrite(console, report)
            verdict(report, was_changed(report), True)
            shown += 1
    assert refused > 20 and shown > 20
