"""The report's entries of branches: what was inserted, or why not."""

from __future__ import annotations

from typing import Any

from onnx_ocs.compensation.menu import Menu
from onnx_ocs.measurement.quality import decibels
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import label
from onnx_ocs.records.branches import Inserted

__all__ = ["FEWEST", "WHY", "branch_entry"]

FEWEST = 16  # samples without which nothing is fitted
WHY = {
    "no_samples": "branches are fitted on calibration samples: give --calib",
    "few_samples": f"fewer than {FEWEST} calibration samples, or all in one batch",
    "translated_before": "this file was widened in an earlier run: start from the original, with both passes",
    "no_gain": "no branch reduces the error on held-out samples",
    "no_end_gain": "it mends the block, but not the model's output on held-out samples",
    "loses": "all branches together make the model's output on held-out samples worse",
    "budget": "the budget for branches is spent where it brings more",
    "integer_kernel": "the layer that writes it would lose its integer kernel",
    "widened": "an earlier pass has changed its shape",
    "not_float": "its values are not float32",
    "unknown_channels": "the number of channels is not known",
    "channel_axis": "the channels are neither the second nor the last axis",
}


def branch_entry(b: Inserted) -> dict[str, Any]:
    """The report's entry for a branch that a file carries already."""
    e = b.entry
    return {
        "status": "applied", "block": b.output, "kind": None, "input": None, "output": b.output,
        "form": e["form"], "regressors": list(b.regressors), "alpha": max(e["alpha"], default=0.0), "beta": e["beta"],
        "rank": e["rank"], "groups": e["groups"], "sqnr_before_db": None, "sqnr_after_db": None, "reason": None,
    }  # fmt: skip


def _entry(m: Menu, graph: Graph) -> dict[str, Any]:
    """The report's entry for one block."""
    b, c = m.block, m.chosen
    at = label(graph.producer[b.output])
    entry: dict[str, Any] = {
        "status": "refused" if c is None else "applied",
        "block": at,
        "kind": b.kind,
        "input": b.input,
        "output": b.output,
        "channels": b.channels,
        "form": None,
        "regressors": [],
        "alpha": None,
        "beta": None,
        "rank": None,
        "groups": None,
        "macs": 0,
        "sqnr_before_db": decibels(m.signal, sum(m.before)),
        "sqnr_after_db": decibels(m.signal, sum(m.before)),
        "reason": None,
    }
    if c is None:
        return entry | {"reason": {"code": m.why, "message": WHY[m.why], "node": at}}
    return entry | {
        "form": c.branch.form,
        "regressors": [("output", "input")[k] for k in c.branch.which],
        "alpha": max(c.branch.alphas, default=0.0),
        "beta": c.branch.beta,
        "rank": c.branch.rank,
        "groups": c.branch.groups,
        "macs": c.macs,
        "sqnr_after_db": decibels(m.signal, sum(c.errors)),
    }
