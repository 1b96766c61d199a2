"""Two reports side by side: what is better, what differs, and what makes figures hard to compare."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from tried import entry

from onnx_ocs.report.comparison import Comparison, Section, compare_reports
from onnx_ocs.report.reading import read_report

OLD = Path(__file__).resolve().parents[1] / "data" / "report_0.1.0.json"


@pytest.fixture
def a() -> Any:
    """A report with two outputs, one of them labels, and a fitted layer."""
    report: Any = read_report(OLD)
    output = {
        "name": "logits", "kind": "scores", "sqnr_before_db": 7.0, "sqnr_after_db": 9.0, "agreement_before": 0.9,
        "agreement_after": 0.95, "constant_channels_before": [], "constant_channels": [], "groups": [], "samples": 32,
    }  # fmt: skip
    labels = {**output, "name": "label", "kind": "labels", "sqnr_before_db": None, "sqnr_after_db": None}
    layer = {
        "status": "applied", "layer": "/head", "weight": "w", "bias": None, "changed": 0.25, "scales_changed": 0,
        "ridge": 0.1, "error_before_db": 10.0, "error_after_db": 12.0, "reason": None,
    }  # fmt: skip
    report |= {"outputs": [output, labels], "reconstructions": [layer]}
    return report


def compared(a: Any, b: Any) -> Comparison:
    return compare_reports(a, b, ("a.json", "b.json"))


def section(found: Comparison, title: str) -> Section:
    return next(s for s in found.sections if s.title.startswith(title))


def texts(found: Section) -> list[list[str]]:
    return [[c.text for c in row] for row in found.rows]


def test_a_report_beside_itself(a: Any) -> None:
    found = compared(a, a)
    assert [s.title for s in found.sections] == ["Outputs", "Cost"]
    assert not found.notes
    assert found.summary.startswith("B against A: equal at 1 output; MACs +0.0 %, bytes +0.0 %, latency x 1.00;")
    assert found.summary.endswith("0 tensors differ")
    assert {c.tone for s in found.sections for row in s.rows for c in row} == {""}
    assert [(s.file, s.verb, s.verdict) for s in found.sides] == [
        ("a.json", "rewrite", "PASSED"), ("b.json", "rewrite", "PASSED"),
    ]  # fmt: skip


def test_outputs_and_their_answers(a: Any) -> None:
    b = copy.deepcopy(a)
    b["outputs"][0] |= {"sqnr_before_db": 8.0, "sqnr_after_db": 10.5, "constant_channels": [3, 4, 5]}
    b["outputs"][1] |= {"agreement_after": 0.85}
    found = compared(a, b)
    assert texts(section(found, "Outputs")) == [
        ["logits", "SQNR", "7.00 → 9.00 dB", "8.00 → 10.50 dB", "+1.50 dB"],
        ["logits", "same answer", "90.00 → 95.00 %", "90.00 → 95.00 %", "+0.00 points"],
        ["logits", "dead channels", "none", "3..5", ""],
        ["label", "same answer", "90.00 → 95.00 %", "90.00 → 85.00 %", "-10.00 points"],
    ]
    assert [row[-1].tone for row in section(found, "Outputs").rows] == ["good", "", "", "bad"]
    assert "better at 1 of 1 output (logits +1.50 dB)" in found.summary
    assert "worse at 1 of 1 output (logits -1.50 dB)" in compared(b, a).summary


def test_reports_of_one_output_and_of_none(a: Any) -> None:
    """Version 0.1.0 measured the first output only; without samples there is none."""
    a["outputs"] = []
    b = copy.deepcopy(a)
    b["quality"]["sqnr_after_db"] += 2
    assert texts(section(compared(a, b), "Outputs"))[0][0::4] == ["first output", "+2.00 dB"]
    b["quality"] |= {"reference": None, "sqnr_after_db": None, "agreement_after": None, "samples": None}
    found = compared(a, b)
    assert "no output was measured in both" in found.summary
    assert found.notes[0].endswith("against the float model on 32 samples in A, on no samples in B")


def test_cost(a: Any) -> None:
    b = copy.deepcopy(a)
    b["cost"] |= {"macs_after": a["cost"]["macs_after"] * 2, "integer_kernels_after": 5}
    b["latency"] |= {"after_ms": a["latency"]["after_ms"] / 2}
    rows = {row[0].text: (row[-1].text, row[-1].tone) for row in section(compared(a, b), "Cost").rows}
    assert rows["MACs"] == ("+100.0 %", "bad") and rows["integer kernels"] == ("-3", "bad")
    assert rows["latency, one thread"] == ("x 0.50", "good") and rows["nodes"] == ("", "")
    b["latency"]["runtime"] = "OpenVINO"  # milliseconds of two runtimes say nothing of two files
    other = compared(a, b)
    assert "latency" not in other.summary and all("latency" not in t for t, *_ in texts(section(other, "Cost")))


def test_tensors_that_differ_those_that_moved_most_first(a: Any) -> None:
    b = copy.deepcopy(a)
    b["regions"][3]["error"]["accumulated_after_db"] += 1.0
    b["regions"][7]["error"]["accumulated_after_db"] -= 3.0
    b["regions"][8] |= {"mode": "late", "copies": [1, 1]}
    b["regions"][9]["error"]["isolated_after_db"] += 0.01  # less than anybody sees
    found = section(compared(a, b), "Tensors that differ, 3 of 13")
    assert [row[0].text for row in found.rows] == [b["regions"][k]["tensor"] for k in (7, 3, 8)]
    assert [row[-1].tone for row in found.rows] == ["bad", "good", ""]
    assert found.rows[2][2].text == "late, 2 copies, step 0.7803" and found.rows[1][1].text == "left: excluded"


def test_tensors_of_one_only_are_named(a: Any) -> None:
    b = copy.deepcopy(a)
    for k in range(6):
        b["regions"][k]["tensor"] += "/quantized"
    notes = compared(a, b).notes
    assert len(notes) == 2 and notes[0].startswith("6 tensors in A only: pixels, ") and notes[0].endswith(", …")


def test_layers_and_blocks(a: Any) -> None:
    b = copy.deepcopy(a)
    b["reconstructions"][0] |= {"changed": 0.5, "error_after_db": 11.0}
    b["compensations"][1] |= {"status": "refused", "reason": {"code": "no_gain", "message": "", "node": ""}}
    found = compared(a, b)
    layer = section(found, "Layers fitted again that differ, 1 of 1").rows[0]
    assert [c.text for c in layer] == ["/head", "25.00 % of the integers", "50.00 % of the integers", "12.0 → 11.0"]
    assert layer[-1].tone == "bad"
    (block,) = texts(section(found, "Compensations that differ, 1 of 4"))
    assert block[:3] == ["/block3/outer/Relu", "low rank, rank 8", "left: no_gain"]
    b["reconstructions"] = []
    assert "1 layers fitted again in A only: /head" in compared(a, b).notes


def test_why_tensors_are_left_alone(a: Any) -> None:
    b = copy.deepcopy(a)
    b["regions"][1]["reason"]["code"] = "no_outliers"
    rows = texts(section(compared(a, b), "Left alone"))
    assert rows == [["excluded", "7", "6", "-1"], ["no_outliers", "0", "1", "+1"]]


def test_what_makes_figures_hard_to_compare(a: Any) -> None:
    b = copy.deepcopy(a)
    b["verb"] = "verify"
    b["environment"] |= {"onnxruntime": "1.99", "cpu_flags": ["avx"]}
    notes = compared(a, b).notes
    assert notes[0] == "A is a report of rewrite, B of verify"
    assert "onnxruntime" in notes[1] and notes[1].endswith("→ avx") and "→ 1.99" in notes[1]


def test_what_either_has_tried(a: Any) -> None:
    b = copy.deepcopy(a)
    a["trials"] = {"tried": [entry("steps", 1.5, 1.0, "chosen")]}
    b["trials"] = {"tried": [entry("steps", 1.25, 1.0, "kept"), entry("copies", 2.0, 1.25, "chosen")]}
    assert texts(section(compared(a, b), "Tried")) == [
        ["steps", "+1.50 dB, x 1.00, chosen", "+1.25 dB, x 1.00, kept"], ["copies", "–", "+2.00 dB, x 1.25, chosen"],
    ]  # fmt: skip
    del a["trials"]
    assert texts(section(compared(a, b), "Tried"))[0] == ["steps", "–", "+1.25 dB, x 1.00, kept"]


def test_new_grids(a: Any) -> None:
    """Quantizers that got another grid in one of the two, another one, or none any more."""
    split = {"status": "applied", "tensor": "cat", "edit": "split", "scale": None, "zero_point": None, "reason": None}
    moved = {**split, "tensor": "last", "edit": "new grid", "scale": 0.25, "zero_point": 3}
    left = {**moved, "status": "refused", "edit": None, "reason": {"code": "mixed", "message": "", "node": "n"}}
    first, second = {**a, "grids": [split, moved]}, {**a, "grids": [split, left]}
    rows = texts(section(compared(first, second), "New grids"))
    assert rows == [["last", "it has another grid, step 0.25, zero-point 3", "left: mixed"]]
    only = compared({**a, "grids": []}, {**a, "grids": [moved]})
    assert any("1 new grids in B only: last" in note for note in only.notes)
