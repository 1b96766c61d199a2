"""Ship or not: the line that a page begins with."""

from __future__ import annotations

from typing import Any

import pytest

from onnx_ocs.report.answer import answer

VALUES = {
    "kind": "values", "sqnr_before_db": 10.0, "sqnr_after_db": 12.0, "agreement_before": None, "agreement_after": None,
    "constant_channels_before": [7], "constant_channels": [], "groups": [], "name": "y",
}  # fmt: skip
NOTHING = {"sqnr_before_db": None, "sqnr_after_db": None}
LABELS = {**VALUES, **NOTHING, "kind": "labels", "agreement_before": 0.9, "agreement_after": 0.9}
WORSE = {**LABELS, "agreement_after": 0.8}
REPORT: dict[str, Any] = {
    "verb": "rewrite", "verification": {"verdict": "PASSED"}, "outputs": [VALUES], "latency": {"ratio": None},
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "changed", "tone", "text"),
    [
        ({}, True, "good", "Ready to ship: proven, and better"),
        ({"latency": {"ratio": 1.2}}, True, "good", "Ready to ship: proven, and better, for 1.20 times the latency"),
        ({"latency": {"ratio": 1.01}}, True, "good", "Ready to ship: proven, and better"),
        ({"outputs": [VALUES, LABELS]}, True, "good", "Ready to ship: proven, and better at 1 of 2 outputs"),
        ({"outputs": [{**VALUES, "agreement_before": 0.9, "agreement_after": 0.8}]}, True, "good",
         "Ready to ship: proven, and better in decibels, but answers agree less often"),
        ({"outputs": [LABELS]}, True, "", "Proven, but no output is better"),
        ({"outputs": [{**VALUES, "sqnr_after_db": None}]}, True, "good", "Ready to ship: proven, and better"),
        ({"outputs": [VALUES, WORSE]}, True, "bad", "Look before you ship: worse at 1 of 2 outputs"),
        ({"outputs": [{**VALUES, "sqnr_after_db": 9.0}]}, True, "bad", "Look before you ship: worse at the output"),
        ({"outputs": [{**VALUES, "constant_channels": [7]}]}, True, "good", "Ready to ship: proven, and better"),
        ({"outputs": [{**VALUES, "constant_channels": [7, 8]}]}, True, "",
         "Look before you ship: better, but 1 channel that lived is dead on these samples"),
        ({"outputs": []}, True, "", "Proven, but not measured: there were no samples"),
        ({"verification": {"verdict": "FAILED"}}, True, "bad", "Do not ship: the verification failed"),
        ({"verification": None}, True, "bad", "Not proven yet: the result was not verified"),
        ({"verification": None}, False, "", "Nothing new to ship: nothing was rewritten"),
        ({"target": {"reached": False}}, False, "bad", "Not what was asked for: the target was missed"),
        ({"target": {"reached": True}}, True, "good", "Ready to ship: proven, and better"),
    ],
)  # fmt: skip
def test_ship_or_not(more: dict[str, Any], changed: bool, tone: str, text: str) -> None:
    assert answer({**REPORT, **more}, changed) == (tone, text)


@pytest.mark.parametrize("verb", ["inspect", "plan"])
def test_what_rewrites_nothing_gets_no_answer(verb: str) -> None:
    assert answer({**REPORT, "verb": verb}, False) is None
