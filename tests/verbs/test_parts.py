"""The parts of a rewrite that are tried where the whole loses."""

from __future__ import annotations

from typing import Any

from onnx_ocs.passes import Compensate, Reconstruct, Regrid, Translate
from onnx_ocs.planning.goal import Target
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.plan import Plan
from onnx_ocs.verbs.parts import parts_of

WIDE = [{"status": "applied", "copies": [0, 2], "copies_low": [0, 0]}]
STEPS = [{"status": "applied", "copies": [0, 0], "copies_low": [0, 0]}, {"status": "refused", "copies": [3]}]
PASSES = [Translate(), Reconstruct(), Compensate()]


def names(parts: Any) -> list[tuple[str, list[str], Any]]:
    return [(dropped, [p.name for p in passes], options) for dropped, passes, options in parts]


def test_each_pass_is_left_out() -> None:
    assert names(parts_of(PASSES, None, WIDE)) == [
        ("the pass 'translate'", ["reconstruct", "compensate"], None),
        ("the pass 'reconstruct'", ["translate", "compensate"], None),
        ("the pass 'compensate'", ["translate", "reconstruct"], None),
    ]
    assert names(parts_of([Translate()], None, WIDE)) == [], "a pass alone has no parts"


def test_without_what_ran_ahead_of_a_plan_another_is_made() -> None:
    passes, options = [Regrid(), Translate(plan=Plan("digest", ())), Reconstruct()], PlanOptions(budget=0.0)
    assert names(parts_of(passes, options, STEPS)) == [
        ("the pass 'regrid'", ["translate", "reconstruct"], options),
        ("the pass 'translate'", ["regrid", "reconstruct"], None),
        ("the pass 'reconstruct'", ["regrid", "translate"], None),
    ]
    assert [n for n, *_ in names(parts_of(passes, None, STEPS))] == ["the pass 'translate'", "the pass 'reconstruct'"]


def test_steps_alone_where_copies_were_planned() -> None:
    options = PlanOptions(budget=0.2, copies=3)
    alone = PlanOptions(budget=0.0, copies=3)
    both = names(parts_of(PASSES[:2], options, WIDE))
    assert both[2:] == [
        ("copies of channels", ["translate", "reconstruct"], alone),
        ("copies of channels and further passes", ["translate"], alone),
    ]
    assert names(parts_of([Translate()], options, WIDE)) == [("copies of channels", ["translate"], alone)]
    assert names(parts_of([Translate()], options, STEPS)) == [], "there were none"
    kept = PlanOptions(budget=0.2, rescale=False), PlanOptions(budget=0.2, target=Target("sqnr", 9.0))
    assert [names(parts_of([Translate()], o, WIDE)) for o in kept] == [[], []]
