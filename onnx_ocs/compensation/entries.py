"""The report's entries of branches: what was inserted, or why not."""

from __future__ import annotations

from typing import Any

from onnx_ocs.compensation.menu import Menu
from onnx_ocs.measurement.quality import decibels
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import label
from onnx_ocs.records.branches import Inserted
from onnx_ocs.refusals import Refusal

__all__ = ["FEWEST", "block_entry", "branch_entry"]

FEWEST = 16  # samples without which nothing is fitted


def branch_entry(b: Inserted) -> dict[str, Any]:
    """The report's entry for a branch that a file carries already."""
    e = b.entry
    return {
        "status": "applied", "block": b.output, "kind": None, "input": None, "output": b.output,
        "form": e["form"], "regressors": list(b.regressors), "alpha": max(e["alpha"], default=0.0), "beta": e["beta"],
        "rank": e["rank"], "groups": e["groups"], "sqnr_before_db": None, "sqnr_after_db": None, "reason": None,
    }  # fmt: skip


def block_entry(m: Menu, graph: Graph) -> dict[str, Any]:
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
        return entry | {"reason": Refusal.of(m.why, at).as_dict()}
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
