"""Copies that are folded back for all their readers: taken where they pay, exact at both levels, and proven."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import streams
from regions_of import regions_of
from zoo import Style

from onnx_ocs import api
from onnx_ocs.measurement.latency import Compared
from onnx_ocs.passes import Translate
from onnx_ocs.planning import candidates, search
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.probes.reference import reference
from onnx_ocs.runtime.session import Session

STREAM = "add1"  # the tensor that no layer with a weight reads
MODELS = {
    "stream, int8": lambda: streams.residual_stream(Style(dtype="int8")),
    "swish": streams.hard_swish,
}


@pytest.fixture(autouse=True)
def no_step_alone_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 8 bits a step that is eight times coarser costs little here, and nothing at run time."""
    for module in (candidates, search):
        monkeypatch.setattr(module, "COARSE", (3.0, 2.0))


@cache
def rewritten(name: str, verify: bool = False, **options: Any) -> tuple[onnx.ModelProto, Any]:
    model = MODELS[name]()
    asked = PlanOptions(**{"budget": 0.1, "effort": "quick", **options})
    return model, api.rewrite(model, calib=streams.samples(model), passes=[Translate()], options=asked, verify=verify)


def folded(report: Any) -> list[dict[str, Any]]:
    """The entries of tensors with copies that no layer reads."""
    copied = [e for e in report["regions"] if e["status"] == "applied" and any((*e["copies"], *e["copies_low"]))]
    return [e for e in copied if not any("MatMul" in c or "Conv" in c for c in e["consumers"])]


def decibels(model: onnx.ModelProto, of: onnx.ModelProto, level: str) -> float:
    """Output SQNR on samples that nothing was planned on, against the model without activation quantizers."""
    _, regions = regions_of(of)
    feed = {"x": np.random.default_rng(77).standard_normal(streams.samples(of)["x"].shape).astype(np.float32)}
    truth, got = (next(iter(Session(m, level).run(feed).values())) for m in (reference(of, regions), model))
    return float(10 * np.log10((truth**2).sum() / ((truth - got) ** 2).sum()))


@pytest.mark.parametrize(("name", "least"), [("stream, int8", 12.0), ("swish", 8.0)])
def test_what_no_layer_reads_is_widened(name: str, least: float) -> None:
    model, result = rewritten(name, verify=True)
    assert result.verification.verdict == "PASSED"
    (entry,) = folded(result.report)
    assert entry["mode"] == "late" and result.report["plan"]["chosen"].endswith("copies folded back")
    assert result.report["cost"]["macs_before"] == result.report["cost"]["macs_after"] or name == "swish"
    for level in ("disable_all", "enable_all"):
        assert decibels(result.model, model, level) > decibels(model, model, level) + least


def test_the_massive_channel_is_the_one() -> None:
    _, result = rewritten("stream, int8", verify=True)
    (entry,) = folded(result.report)
    assert entry["tensor"] == STREAM and entry["axis"] == 2 and entry["channels"] == streams.DIM
    assert np.flatnonzero(np.asarray(entry["copies"]) + entry["copies_low"]).tolist() == [streams.MASSIVE]


def test_they_must_be_worth_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_ocs.planning.foldable.PASS", 1e6)
    model = streams.residual_stream()
    options = PlanOptions(budget=0.1, effort="quick")
    result = api.rewrite(model, calib=streams.samples(model), passes=[Translate()], options=options, verify=False)
    assert not folded(result.report)


def test_a_limit_of_time_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = type("Slow", (), {"ratio": 9.0, "tolerance": 0.0, "holds": lambda *_: False, "exceeds": lambda *_: True})()
    monkeypatch.setattr("onnx_ocs.planning.budget.compared", lambda *_: slow)
    model = streams.residual_stream()
    options = PlanOptions(budget=0.1, max_latency=1.5, effort="quick")
    result = api.rewrite(model, calib=streams.samples(model), passes=[Translate()], options=options, verify=False)
    assert not folded(result.report)


def test_integer_operators_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mode `integer` leaves out what would cost one; here that is every copy in front of the quantized sum."""
    _, result = rewritten("swish", mode="integer")
    cost = result.report["cost"]
    assert cost["integer_operators_after"] >= cost["integer_operators_before"]


def test_inspect_says_that_they_are_possible() -> None:
    model = streams.residual_stream()
    entry = next(e for e in api.inspect(model)["regions"] if e["tensor"] == STREAM)
    assert entry["reason"]["code"] == "fold_only" and "copies are possible" in entry["reason"]["message"]



def test_time_goes_where_it_brings_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where other copies leave no time for those that are folded back, a plan with these alone is tried."""
    kept = iter([True, False, True])  # other copies alone, both, those that are folded back alone
    asked: list[bool] = []

    def timed(*_: Any) -> Any:
        asked.append(next(kept))
        return Compared(1.0, 1.0, 1.0, 0.0) if asked[-1] else Compared(1.0, 9.0, 9.0, 0.0)

    monkeypatch.setattr("onnx_ocs.planning.budget.compared", timed)
    _, result = rewritten("swish", budget=4.0, effort="full", max_latency=1.5)
    assert asked == [True, False, True]
    copied = [e for e in result.report["regions"] if e["status"] == "applied" and any((*e["copies"], *e["copies_low"]))]
    assert [e["tensor"] for e in copied] == ["conv1"]
