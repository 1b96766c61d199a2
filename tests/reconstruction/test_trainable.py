"""What gradients may change in a file, and what must stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from zoo import build

from onnx_ocs.calibration.context import Context
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import run_passes
from onnx_ocs.reconstruction.biases import bias_shift, follows_weight
from onnx_ocs.reconstruction.find import find_maps
from onnx_ocs.reconstruction.trainable import MOST_GROWTH, Trainable, find_trainable
from onnx_ocs.records.weights import Refit, Refitted, record_refitted


def parts(name: str) -> Trainable:
    return find_trainable(EditableGraph(build(name)[0]))


def steps(found: Trainable) -> list[str]:
    return [s.region.tensor for s in found.steps]


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("conv_relu_conv", ["x", "relu1"]),
        ("three_layers", ["x", "relu1", "conv2"]),  # the output's own step is read outside
        ("depthwise_per_channel", ["x"]),  # a step per channel stays
        ("bias_int32", ["x", "relu1", "conv2"]),
        ("output_integer", ["x"]),
    ],
)
def test_steps_that_may_change(name: str, tensors: list[str]) -> None:
    found = [t for t in steps(parts(name)) if t != "conv3"]
    assert found == tensors


def test_what_is_on_one_grid_changes_together() -> None:
    found = parts("requantized")
    both = [s for s in found.steps if len(s.factors) > 2]
    assert len(both) == 1 and set(both[0].factors) >= {"relu1_q", "relu1_dq"}
    assert all(np.isclose(f, 1) for f in both[0].factors.values())
    assert both[0].now == pytest.approx(both[0].region.quantizer.scale.item())  # type: ignore[union-attr]


def test_layers_know_the_step_that_they_read() -> None:
    found = parts("conv_relu_conv")
    assert {k: steps(found)[v] for k, v in found.inputs.items()} == {"conv1": "x", "conv2": "relu1"}
    assert found.scaled == {"conv1", "conv2"} and found.roots == {"conv1_w", "conv1_b", "conv2_w", "conv2_b"}
    assert all(1 <= s.most <= MOST_GROWTH for s in found.steps)


def test_a_folded_bound_keeps_a_step_below() -> None:
    """A ReLU6 in front of the quantizer: a range beyond 6 would hold nothing."""
    found = parts("clip_free")
    (step,) = (s for s in found.steps if s.region.tensor == "clip1")
    assert step.most == pytest.approx(min(MOST_GROWTH, max(1.0, 6 / (255 * step.now)))) or not found.ceilings


def test_translated_steps_stay() -> None:
    model = run_passes(build("bias_int32")[0], [Translate(ratio=1.0)], Context())[0]
    found = find_trainable(EditableGraph(model))
    assert steps(parts("bias_int32")) == ["x", "relu1", "conv2", "conv3"]
    assert steps(found) == ["conv3"]  # x: the integers of a bias that holds X_clip would get too coarse
    tied = [x for x in found.layers if x.tie is not None]
    assert len(tied) == 2
    for x in tied:
        assert x.tie is not None and np.allclose(bias_shift(x), x.tie.shift, rtol=1e-3) and x.tie.shift.any()


@pytest.mark.parametrize(("name", "follows"), [("bias_int32", True), ("bias_int8", False), ("conv_relu_conv", False)])
def test_biases_that_follow_the_weights_scale(name: str, follows: bool) -> None:
    graph = EditableGraph(build(name)[0])
    assert [follows_weight(graph, x) for x in find_trainable(graph).layers] == [follows] * len(find_maps(graph))


def test_the_range_of_an_earlier_fit_is_kept() -> None:
    """Even where no value shows it any more."""
    model = onnx.ModelProto()
    model.CopyFrom(build("conv_relu_conv")[0])
    node = next(n for n in model.graph.node if n.op_type == "Conv")
    record_refitted(node, Refitted(Refit("conv1_w", "conv1_w", ""), None, None, None, -7, 7))
    ranges = [(x.weight.low, x.weight.high) for x in find_trainable(EditableGraph(model)).layers]
    assert ranges == [(-7, 7), (-127, 127)]


def test_what_cannot_be_read_is_said() -> None:
    found = parts("batched_matmul")
    assert not found.layers and [r.code for r in found.refusals] == ["weight_form"] * 2
