"""The report's entries of branches."""

from __future__ import annotations

import zoo
from feeds import inputs
from topologies import resnet

from onnx_ocs import api
from onnx_ocs.compensation.entries import branch_entry
from onnx_ocs.passes import Compensate
from onnx_ocs.records.branches import Inserted


def test_a_branch_that_a_file_carries() -> None:
    record = {"form": "grouped", "alpha": [0.0, 0.4], "beta": 1.3, "rank": 16, "groups": 2, "low": -1}
    e = branch_entry(Inserted("y", "y", "y_after", ("y", "x"), record))
    assert e["status"] == "applied" and e["reason"] is None
    assert (e["block"], e["output"], e["regressors"]) == ("y", "y", ["y", "x"])
    assert (e["form"], e["alpha"], e["beta"], e["rank"], e["groups"]) == ("grouped", 0.4, 1.3, 16, 2)
    assert e["sqnr_before_db"] is None and e["sqnr_after_db"] is None
    assert branch_entry(Inserted("y", "y", "z", (), record | {"alpha": []}))["alpha"] == 0.0


def test_a_refused_block_says_why() -> None:
    """Without MACs only a bias may be added; a network of 8 bits has nothing to gain from one."""
    model, _ = zoo.build("residual")
    result = api.rewrite(model, calib=inputs(model, 32), passes=[Compensate(budget=0.0)], verify=False)
    refused = [e for e in result.report["compensations"] if e["status"] == "refused"]
    assert refused
    for e in refused:
        assert e["reason"]["code"] in ("no_gain", "no_end_gain", "budget", "integer_kernel") and e["reason"]["message"]
        assert e["reason"]["node"] == e["block"] and e["channels"] == 8
        assert (e["form"], e["regressors"], e["alpha"], e["rank"], e["macs"]) == (None, [], None, None, 0)
        assert e["sqnr_after_db"] == e["sqnr_before_db"]


def test_applied_entries_are_those_of_the_file() -> None:
    """What the rewrite reports is what `inspect` reads from the file."""
    built = resnet(zoo.Style(bits=2)).model("gemm1")
    result = api.rewrite(built, calib=inputs(built, 96), passes=[Compensate(budget=1.0)], verify=False)
    applied = [e for e in result.report["compensations"] if e["status"] == "applied"]
    shown = api.inspect(result.model)["compensations"]
    keys = ("output", "form", "alpha", "beta", "rank", "groups")
    assert applied and [[e[k] for k in keys] for e in applied] == [[e[k] for k in keys] for e in shown]
    for e in applied:
        assert e["sqnr_after_db"] > e["sqnr_before_db"]
