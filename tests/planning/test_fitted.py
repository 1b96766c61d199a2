"""Two kinds of plans, of which fitted weights like one better."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from wild import network, patches

from onnx_ocs.api import rewrite
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.measurement.outputs import OutputQuality
from onnx_ocs.measurement.quality import Quality
from onnx_ocs.planning import fitted
from onnx_ocs.planning.make import make_plan
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.plan import Plan


def scales(model: onnx.ModelProto) -> dict[str, float]:
    values = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    return {n.output[0]: float(values[n.input[1]]) for n in model.graph.node if n.op_type == "QuantizeLinear"}


def quality(db: float) -> Quality:
    return Quality(db, None, 32, (OutputQuality("y", "values", db),))


@pytest.mark.parametrize("liked", ["same", "other", "none"])
def test_what_is_better_behind_the_fit_is_taken(liked: str) -> None:
    model, asked = network(True), []
    own = scales(model)

    def measure(made: Plan) -> Quality:
        same = all(float(r.scale) == pytest.approx(own[r.quantizers[0]]) for r in made.regions)
        asked.append(same)
        return quality(10.0 + (liked == "same" and same) + (liked == "other" and not same))

    context = Context(open_samples({"x": patches(32)}, model))
    options = PlanOptions(budget=0.5, effort="full", refitted=True)
    made, found = make_plan(model, options, context, network(False), measure=measure)
    assert sorted(asked) == [False, True], "one of each kind"
    first = asked[0]
    taken = {"same": True, "other": False, "none": first}[liked]
    entry = found["fitted"]
    assert entry["taken"] == found["chosen"] == entry["plans"][asked.index(taken)]
    assert found["chosen"] in found["candidates"], "what was compared on the way is told, of the plan that is taken"
    assert all(float(r.scale) == pytest.approx(own[r.quantizers[0]]) for r in made.regions) == taken
    assert abs(entry["gain_db"]) == (liked != "none")


@pytest.mark.parametrize(("levels", "liked"), [(256, "steps"), (256, "none"), (8, "nobody asks")])
def test_steps_on_few_levels_are_held_against_none(levels: int, liked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network's grids have 256 levels, which are few or not."""
    model, asked = network(True), list[int]()

    def measure(made: Plan) -> Quality:
        asked.append(len(made.regions))
        return quality(10.0 + (liked == "steps") * (len(made.regions) > 0) + (liked == "none") * (not made.regions))

    monkeypatch.setattr(fitted, "LEVELS", levels)
    context = Context(open_samples({"x": patches(32)}, model))
    made, found = make_plan(model, PlanOptions(budget=0.0, refitted=True), context, network(False), measure=measure)
    if liked == "nobody asks":
        assert not asked and made.regions and "fitted" not in found
        return
    assert asked[0] > 0 == asked[1] and found["fitted"]["gain_db"] == (1.0 if liked == "none" else -1.0)
    assert bool(made.regions) == (liked == "steps")
    assert found["fitted"]["taken"] == found["chosen"] == found["fitted"]["plans"][liked == "none"]
    if liked == "none":
        assert found["chosen"] == "the model as it is" and found["after"] == found["before"]


@pytest.mark.parametrize("options", [{"budget": 0.0}, {"refitted": False}, {"effort": "quick"}, {"rescale": False}])
def test_nobody_is_asked_without_copies_or_a_fit(options: dict[str, Any]) -> None:
    def measure(made: Plan) -> Quality:
        raise AssertionError("nobody asked for this")

    model = network(True)
    context = Context(open_samples({"x": patches(32)}, model))
    asked = PlanOptions(**{"budget": 0.5, "effort": "full", "refitted": True, **options})
    _, found = make_plan(model, asked, context, network(False), measure=measure)
    assert "fitted" not in found


def test_a_rewrite_asks_where_reconstruct_runs() -> None:
    options = PlanOptions(budget=0.5, effort="full")
    for passes, there in (("translate,reconstruct", True), ("translate", False)):
        result = rewrite(network(True), calib={"x": patches(32)}, float_model=network(False), passes=passes,
                         options=options)  # fmt: skip
        assert ("fitted" in result.report["plan"]) == there
        assert np.isfinite(result.report["quality"]["sqnr_after_db"])
