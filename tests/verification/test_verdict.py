"""The result of a verification, and how the report says it."""

from __future__ import annotations

import numpy as np

from onnx_ocs.verification.difference import Difference
from onnx_ocs.verification.verdict import Verification


def test_one_failure_decides() -> None:
    v = Verification()
    assert v.verdict == "PASSED" and v.as_dict()["failures"] == []
    v.notes.append("a note decides nothing")
    assert v.verdict == "PASSED"
    v.fail("first")
    v.fail("second")
    assert v.verdict == "FAILED" and v.as_dict()["failures"] == ["first", "second"]


def test_results_share_nothing() -> None:
    Verification().fail("only here")
    assert Verification().failures == [] and Verification().exact.values == 0


def test_the_report_names_each_level_that_was_run() -> None:
    v = Verification(inputs="2 samples", translated=3, rescaled=1, branches=4, refitted=5, active=0.25)
    v.exact.integers("t", np.asarray([1, 2, 3, 4]), np.asarray([1, 2, 3, 6]), None)
    found = v.as_dict()
    assert [e["level"] for e in found["levels"]] == ["disable_all"]
    assert found["levels"][0] == v.exact.as_dict("disable_all")
    assert found["levels"][0]["max_steps"] == 2 and found["levels"][0]["mismatch_fraction"] == 0.25
    assert found["oracle"] == {
        "translated_quantizers": 3, "rescaled_quantizers": 1, "branches": 4, "refitted_layers": 5,
        "regridded_quantizers": 0,
        "copies_active": 0.25, "inputs": "2 samples", "original_between_levels": None,
    }  # fmt: skip
    v.optimized, v.original = Difference(values=7), Difference(values=9)
    found = v.as_dict()
    assert [(e["level"], e["values"]) for e in found["levels"]] == [("disable_all", 4), ("enable_all", 7)]
    assert found["oracle"]["original_between_levels"]["values"] == 9
    assert found["io_unchanged"] and found["checker"] == "ok"
