"""The verdict in words: read off a report, and advice only where the report has its reason."""

from __future__ import annotations

from typing import Any

import pytest

from onnx_ocs.report.verdict import advise


def region(tensor: str, **more: Any) -> dict[str, Any]:
    error = {"isolated_before_db": 30.0, "isolated_after_db": 30.0, "samples": 64}
    return {
        "tensor": tensor, "status": "refused", "copies": [], "copies_low": [], "mode": None, "scale": 0.1,
        "scale_before": 0.1, "x_clip": 1.0, "error": error, "histogram": {"range": [0.0, 1.0]}, **more,
    }  # fmt: skip


def own(db: float) -> dict[str, Any]:
    return {"error": {"isolated_before_db": db, "samples": 64}}


OUTPUT = {
    "name": "y", "kind": "scores", "sqnr_before_db": 10.0, "sqnr_after_db": 20.0, "agreement_before": 0.5,
    "agreement_after": 0.75, "constant_channels_before": [], "constant_channels": [],
}  # fmt: skip
COST = {"macs_before": 1000, "macs_after": 1050, "bytes_before": 10, "bytes_after": 10}
TIME = {"before_ms": 2.0, "after_ms": 2.2, "ratio": 1.1}
QUALITY = {
    "reference": "float model", "samples": 64, "sqnr_before_db": 10.0, "sqnr_after_db": 40.0,
    "agreement_before": 0.5, "agreement_after": 0.75,
}  # fmt: skip


def report(**more: Any) -> dict[str, Any]:
    regions = [
        region("a", status="applied", copies=[1, 2], mode="late", **own(25.0)),
        region("b", status="applied", mode="rescale", scale=0.2),
        region("c"),
    ]
    found = {
        "verb": "rewrite", "regions": regions, "reconstructions": [], "compensations": [], "outputs": [OUTPUT],
        "cost": COST, "latency": TIME, "quality": QUALITY,
    }  # fmt: skip
    return found | more


def test_what_was_done_brought_and_costs() -> None:
    v = advise(report(), 0.1)
    assert v["done"] == "1 tensor with copies, 1 other step"
    assert v["brought"] == ["'y' 10.00 dB → 20.00 dB, same answer 50.00 % → 75.00 %"]
    assert v["costs"] == "+5.0 % multiply-accumulates, no more bytes, 2 → 2.2 ms a sample (x 1.10)"
    there = advise(report(latency=TIME | {"runtime": "OpenVINO"}), 0.1)["costs"]
    assert there.endswith("2 → 2.2 ms a sample in OpenVINO (x 1.10)")
    assert v["worst"][0] == {"kind": "tensor", "name": "a", "sqnr_db": 25.0, "share": None}
    assert v["next"] == [], "nothing is advised without a reason"
    nothing = advise(report(regions=[region("c")]), 0.1)
    assert nothing["done"] == "nothing was rewritten"


def test_every_output_is_told() -> None:
    labels = {**OUTPUT, "name": "l", "kind": "labels", "sqnr_before_db": None, "sqnr_after_db": None}
    dead = {**OUTPUT, "name": "d", "agreement_before": None, "agreement_after": None, "constant_channels": [1, 2]}
    dead |= {"constant_channels_before": [2]}
    told = advise(report(outputs=[labels, dead, *[OUTPUT] * 6]))["brought"]
    assert told[0] == "'l' same answer 50.00 % → 75.00 %" and told[1].endswith("20.00 dB, dead channels 1 → 2")
    assert told[-1] == "and 2 more outputs" and len(told) == 7


@pytest.mark.parametrize(
    ("budget", "plan", "why"),
    [
        (0.05, {}, "allowed"),
        (0.5, {"candidates": {"p": {"extra_macs": 0.4}}}, "those that spend more are no better"),
        (0.5, {"candidates": {"p": {"extra_macs": 0.05}}}, "the best plan needs no more"),
        (0.5, {"kernels": {"kept": True, "why": "they cost kernels"}}, "copies were left out, they cost kernels"),
        (
            0.5,
            {
                "candidates": {"p": {"extra_macs": 0.4}},
                "time": {
                    "limit": 1.1,
                    "measured": [
                        {"allowed": 0.1, "ratio": 1.4, "tolerance": 0.01, "limit": 1.1},
                        {"allowed": 0.05, "ratio": 1.05, "tolerance": 0.01, "limit": 1.1},
                    ],
                },
            },
            "copies were left out for time: with more it took x 1.40, x 1.1 is allowed",
        ),
    ],
)
def test_what_was_left_of_the_budget_and_why(budget: float, plan: dict[str, Any], why: str) -> None:
    told = advise(report(plan=plan), budget)["budget"]
    assert told is not None and told.startswith("5.00 % of the ") and told.endswith(why)
    assert advise(report())["budget"] is None and advise(report(verb="inspect"), budget)["budget"] is None
    assert advise(report(plan=plan), 0.0)["budget"] == "none for copies (--budget): what is free alone was planned"


def advice(**more: Any) -> str:
    budget, floats = more.pop("budget", None), more.pop("floats", True)
    return "\n".join(advise(report(**more), budget, floats)["next"])


def test_advice_has_a_reason() -> None:
    blind = advise(report(quality={**QUALITY, "reference": None, "samples": None}))["next"]
    assert len(blind) == 1 and "--calib" in blind[0]
    assert "--float" in advice(quality={**QUALITY, "reference": "QDQ model without its activation quantizers"})
    assert "larger --budget than 5.00 %" in advice(budget=0.05) and "--budget" not in advice(budget=0.5)
    assert "16 are few" in advice(quality={**QUALITY, "samples": 16})
    low = {**QUALITY, "sqnr_after_db": 20.0}
    assert "compensate" in advice(quality=low) and "compensate" not in advice()
    assert "compensate" not in advice(quality=low, floats=False), "the target has no operators for it"
    fitted = {"status": "applied", "layer": "n", "error_before_db": 9.0, "error_after_db": 12.0, "reason": None}
    assert "compensate" not in advice(quality=low, reconstructions=[fitted]), "nothing is left for it"
    assert "--budget 0.1" in advice(quality=low, budget=0.0) and "--budget 0.1" not in advice(quality=low, budget=0.5)
    plan = {"after": [1.0, 30.0], "unseen": [1.0, 27.0]}
    assert "3.0 dB worse on samples that it was not made from" in advice(plan=plan)
    fit = {"status": "refused", "layer": "n", "error_before_db": 9.0, "error_after_db": 9.0}
    fit["reason"] = {"code": "taken_back"}
    assert "all fits were taken back" in advice(reconstructions=[fit])


def test_ranges_that_were_cut() -> None:
    cut = [region(str(k), histogram={"range": [0.0, 4.0]}) for k in range(3)]
    assert "min-max ranges in the quantizer: 3 of 4" in advice(regions=[*cut, region("d")])
    assert "min-max" not in advice(regions=[cut[0], region("c"), region("d")])


def test_tensors_for_sixteen_bits() -> None:
    """By the share of the loss where it was measured, else by what stands out; not what can be mended."""
    usual = [region(str(k)) for k in range(4)]
    found = advice(regions=[*usual, region("bad", **own(12.0)), region("worse", **own(9.0))])
    assert "leave 'worse' (9.00 dB by its own quantizer) and 'bad' (12.00 dB" in found
    assert "16 bits" not in advice(regions=usual)
    costly = region("costly", share_alone=0.6, sqnr_alone_db=11.0)
    assert "leave 'costly' (60.00 % of the loss) at 16 bits (--bits16)" in advice(
        verb="inspect", regions=[*usual, costly]
    )
    mendable = {**costly, "status": "candidate", "mode": "late"}
    loss = {"share_mendable": 0.9}
    told = advice(verb="inspect", regions=[*usual, mendable], loss=loss)
    assert "16 bits" not in told and "rewrite with these samples: up to 90.00 % of the loss" in told


def test_what_hurts_is_of_one_order_of_magnitude() -> None:
    layers = [
        {"status": "applied", "layer": "n", "error_before_db": 5.0, "error_after_db": 15.0, "reason": None},
        {"status": "refused", "layer": "m", "error_before_db": 50.0, "error_after_db": None, "reason": {"code": "x"}},
    ]
    worst = advise(report(reconstructions=layers))["worst"]
    assert [(w["kind"], w["name"], w["sqnr_db"]) for w in worst if w["kind"] == "layer"] == [("layer", "n", 15.0)]
