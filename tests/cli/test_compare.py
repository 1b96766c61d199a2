"""`compare`: two reports side by side, as tables and as a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

OLD = Path(__file__).resolve().parents[1] / "data" / "report_0.1.0.json"


@pytest.fixture
def better(tmp_path: Path) -> Path:
    """A report of 2 dB more, in a folder of its own."""
    report = json.loads(OLD.read_text(encoding="utf-8"))
    report["quality"]["sqnr_after_db"] += 2
    report["regions"][3] |= {"tensor": "<script>"}
    path = tmp_path / "b" / OLD.name
    path.parent.mkdir()
    path.write_text(json.dumps(report), encoding="utf-8")
    return path


def test_tables_and_page(run, tmp_path: Path, better: Path) -> None:
    code, out, err = run("compare", OLD, better, "--html", "c.html")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"A: {OLD}: rewrite, PASSED" and lines[1] == f"B: {better}: rewrite, PASSED"
    assert lines[-1].startswith("B against A: better at 1 of 1 output (first output +2.00 dB); MACs +0.0 %")
    page = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert "first output" in page and "+2.00 dB" in page and "<script" not in page


def test_to_standard_output(run, better: Path) -> None:
    code, page, tables = run("compare", OLD, better, "--html", "-")
    assert code == 0 and page.startswith("<!DOCTYPE html>") and "B against A" in tables


@pytest.mark.parametrize("html", ["a.json", "no/c.html"])
def test_mistakes_are_one_line(run, tmp_path: Path, better: Path, html: str) -> None:
    (tmp_path / "a.json").write_bytes(OLD.read_bytes())
    code, out, err = run("compare", "a.json", better, "--html", html)
    assert (code, out) == (1, "") and len(err.splitlines()) == 1
    assert (tmp_path / "a.json").read_bytes() == OLD.read_bytes()
    better.write_text("{}", encoding="utf-8")
    code, out, err = run("compare", "a.json", better)
    said = "this is no report; give one of onnx_ocs.report/1, which --report writes"
    assert (code, out, err) == (1, "", f"Error: {better}: {said}\n")
