"""docs/options.md is what its generator makes."""

from __future__ import annotations

import re
from pathlib import Path

from onnx_ocs.cli.app import VERBS
from onnx_ocs.cli.options_markdown import markdown, option_table

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_as_generated() -> None:
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert page == markdown(), "run: python -m onnx_ocs.cli.options_markdown > docs/options.md"


def test_every_option_of_every_verb_is_there() -> None:
    rows = option_table()
    found = [(r.verb, re.split("[,/]", r.flag)[0]) for r in rows]
    assert found == [(v.name, f.name) for v in VERBS for f in v.flags]
    known = {(r.verb, r.flag): r for r in rows}
    assert known["rewrite", "--nbc-budget"][2:4] == ("number, 0 to 32", "0.1")
    assert known["rewrite", "--verify/--no-verify"][2:4] == ("yes or no", "yes")
    assert known["plan", "--calib"].default == "must be given"
    assert known["verify", "--calib"].default == ""
    assert all(r.help and r.type for r in rows)


def test_tables_hold_together() -> None:
    for line in markdown().splitlines():
        if line.startswith("| "):
            assert line.replace(r"\|", "").count("|") == 5, line
