"""What a plan may change, what copies cost, and how far steps may go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zoo
from problems import problem_of
from regions_of import graph_and_regions
from zoo import Style, image

from onnx_ocs.calibration.collect import calibrate
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.planning.candidates import COARSE, COARSER, Candidate, factors, find_candidates, room
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.problem import Problem


def candidates(name: str, **options: Any) -> dict[str, Candidate]:
    return {c.region.tensor: c for c in problem_of(name, PlanOptions(**{"copies": 6, **options})).candidates}


def test_all_that_layers_read() -> None:
    found = candidates("residual")
    assert {t: c.mode for t, c in found.items()} == {"x": "late", "relu1": "early", "relu2": "late"}
    assert all(c.shares and c.macs > 0 for c in found.values())


def test_a_step_alone_where_it_was_counted() -> None:
    """An Add reads conv2: no copies, but another step may help."""
    model, feed = zoo.build("residual")
    graph, regions = graph_and_regions(model)
    every = list(regions.values())
    k = [r.tensor for r in every].index("conv2")
    context = Context(open_samples(feed, model))
    base = {id(n): 1 for n in graph.nodes}
    found = {}
    for steps in ([], [k]):
        statistics = calibrate(model, every, context, "the model", steps=steps)
        found[len(steps)] = {c.index: c for c in find_candidates(graph, every, base, statistics, PlanOptions())}
    assert k not in found[0] and found[1].keys() == found[0].keys() | {k}
    assert found[1][k].shares == {} and found[1][k].macs == 0 and len(found[1][k].steps) > 1


def test_what_a_copy_costs() -> None:
    """The reader's MACs for one more of eight channels; made early, one more row of the producer too."""
    first, second = 8 * 36 * 4 * 9, 8 * 36 * 8 * 9  # of conv1 and of conv2
    found = candidates("conv_relu_conv")
    assert list(found["relu1"].shares.values()) == [1 / 8]
    assert found["relu1"].macs == pytest.approx(second / 8 + first / 8)
    assert found["x"].macs == pytest.approx(first / 4)
    assert candidates("conv_relu_conv", mode="late")["relu1"].macs == pytest.approx(second / 8)


def test_what_the_user_leaves_out() -> None:
    assert set(candidates("residual", include=("relu*",))) == {"relu1", "relu2"}
    assert set(candidates("residual", exclude=("relu1", "x"))) == {"relu2"}


def test_without_other_steps_only_copies_are_left() -> None:
    found = candidates("residual", rescale=False)
    assert set(found) == {"x", "relu1", "relu2"}
    assert all(c.steps.tolist() == [1.0] and c.own == 0 for c in found.values())


def test_early_alone_leaves_others_their_steps() -> None:
    found = candidates("residual", mode="early")
    assert found["relu1"].shares and not found["relu2"].shares and found["relu2"].mode == "early"


def test_a_quantizer_that_carries_on_is_no_candidate_of_its_own() -> None:
    assert "maxpool1" not in candidates("requantized")


def test_groups_must_be_alike() -> None:
    assert candidates("grouped")["relu1"].uniform and not candidates("conv_relu_conv")["relu1"].uniform
    assert not candidates("depthwise", mode="early")["relu1"].uniform


@pytest.mark.parametrize("copies", [1, 3, 15])
def test_steps_reach_as_far_as_copies_can_make_up_for(copies: int) -> None:
    graph, regions = graph_and_regions(zoo.build("conv_relu_conv")[0])
    found = factors(graph, regions["relu1"], copies)
    fine = found[~np.isin(found, COARSE)]
    assert fine.max() == pytest.approx(COARSER) and fine.min() == pytest.approx(1 / (copies + 1))
    assert set(COARSE) <= set(found.tolist())
    ratios = fine[1:] / fine[:-1]
    np.testing.assert_allclose(ratios, ratios[0])


@pytest.mark.parametrize(("reach", "coarsest"), [(0.5, COARSER), (1.0, COARSER), (2.0, 2.6), (100.0, 8.0)])
def test_no_step_is_coarser_than_what_was_seen(reach: float, coarsest: float) -> None:
    graph, regions = graph_and_regions(zoo.build("conv_relu_conv")[0])
    assert factors(graph, regions["relu1"], 3, reach).max() == pytest.approx(coarsest)


def test_what_was_seen_below_does_not_count_in_front_of_silu() -> None:
    """Values from -30 to 6 on a grid from -12 to 12: SiLU makes nothing of those below."""
    for behind, curved, coarsest in (("HardSwish", True, COARSER), ("Elu", True, COARSER), ("Neg", False, 3.0)):
        net = zoo.Net(zoo.Style(opset=17), x=(3, 8, 8))
        low = net.op(
            "Sub", net.op("Mul", net.conv(net.qdq("x", "mid", 1.0)), net.const("four", 4.0)), net.const("t", 12.0)
        )
        t = net.qdq(low, "mid", 1.0, scale=12 / 128)
        model = net.model(net.op("Identity", net.op(behind, t), out="y"))
        graph, regions = graph_and_regions(model)
        every = list(regions.values())
        k = [r.tensor for r in every].index("sub1")
        rng = np.random.default_rng(1)
        context = Context(open_samples({"x": rng.standard_normal((16, 3, 8, 8)).astype(np.float32)}, model))
        statistics = calibrate(model, every, context, "the model", steps=[k])
        statistics.halves[0][k].low, statistics.halves[0][k].high = -30.0, 6.0
        statistics.halves[1][k].low, statistics.halves[1][k].high = -29.0, 5.0
        [c] = [
            c
            for c in find_candidates(graph, every, {id(n): 1 for n in graph.nodes}, statistics, PlanOptions())
            if c.index == k
        ]
        assert (c.function is not None) == curved and c.steps.max() == pytest.approx(coarsest)


def test_steps_that_must_stay() -> None:
    graph, regions = graph_and_regions(zoo.build("depthwise_per_channel")[0])
    assert factors(graph, regions["relu1"], 3).size == 0
    graph, regions = graph_and_regions(zoo.build("concat_requantized")[0])
    assert factors(graph, regions["relu1"], 3).size == 0  # joined with another tensor's


def test_no_step_is_coarser_than_a_clip_needs() -> None:
    """The quantizer reaches half of what the Clip lets through: twice the step is enough."""
    n, x = image(Style())
    t = n.clip(n.conv(x), 0, 4)
    graph, regions = graph_and_regions(n.model(n.conv(n.qdq(t, scale=2 / 255))))
    found = factors(graph, regions[t], 3)
    assert found.max() == 1.95 and 1.5 in found


def candidate(problem: Problem, tensor: str) -> Candidate:
    return next(c for c in problem.candidates if c.region.tensor == tensor)


def test_room_for_copies() -> None:
    c = candidate(problem_of("residual"), "relu1")
    assert room(c, c.own, 6) == (6, 0)  # early: nothing below
    late = candidate(problem_of("none_mid"), "conv1")
    assert late.mode == "late" and room(late, late.own, 6) == (6, 6)
    alone = candidate(problem_of("residual", PlanOptions(copies=6, mode="early")), "relu2")
    assert room(alone, alone.own, 6) == (0, 0)  # only its step can be changed


def test_half_precision_has_little_room() -> None:
    c = candidate(problem_of("float16"), "relu1")
    assert room(c, c.own, 6)[0] == 2


def test_a_bound_limits_the_copies_at_every_step() -> None:
    """Clip at 6 in front of X_clip = 1.7: (n + 1) * 1.7 <= 5.1 stays below it, at half the step twice as many do."""
    n, x = image(Style())
    t = n.clip(n.conv(x), 0, 6)
    model = n.model(n.conv(n.qdq(t, scale=1.7 / 255)))
    c = candidate(problem_of((model, n.feed)), t)
    assert c.limit == pytest.approx(3 * 1.7)
    for step, factor in enumerate(c.steps):
        most = int(c.limit / (1.7 * factor) * (1 + 1e-6)) - 1
        assert room(c, step, 6)[0] == min(6, most)
