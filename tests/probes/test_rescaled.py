"""The yardstick for changed steps: built from the original and the declared steps alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from zoo import build, execute

from onnx_ocs.model.graph import Graph
from onnx_ocs.probes.rescaled import Steps, coarse, rescaled
from onnx_ocs.qdq.weights import read_weight
from onnx_ocs.runtime.instrument import expose


def stored(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def scale_of(model: onnx.ModelProto, output: str) -> np.ndarray:
    n = next(n for n in model.graph.node if output in n.output)
    return stored(model, n.input[1])


def test_q_and_dq_get_the_step_and_the_original_stays() -> None:
    model, feed = build("conv_relu_conv")
    before = model.SerializeToString()
    now = np.asarray(float(stored(model, "relu1_scale")) * 1.5)
    new = rescaled(model, {"relu1_q": now})
    assert model.SerializeToString() == before
    assert scale_of(new, "relu1_q") == scale_of(new, "relu1_dq") == np.float32(now)
    assert scale_of(new, "x_q") == stored(model, "x_scale")
    relu, got = execute(expose(new, ["relu1", "relu1_dq"]), feed)[-2:]
    step = float(np.float32(now))
    np.testing.assert_allclose(got, np.clip(np.rint(relu / np.float32(step)), 0, 255) * step, rtol=1e-6)


def test_an_integer_bias_follows() -> None:
    """b' = round(b s / s'), at the scale s' s_w: as many units, to half a step."""
    model, _ = build("bias_int32")
    old = float(stored(model, "relu1_scale"))
    new = rescaled(model, {"relu1_q": np.asarray(old * 0.7)})
    layer = next(n for n in new.graph.node if n.op_type == "Conv" and n.input[0] == "relu1_dq")
    dq = next(n for n in new.graph.node if layer.input[2] in n.output)
    value, scale = stored(new, dq.input[0]).astype(np.float64), stored(new, dq.input[1]).astype(np.float64)
    was = stored(model, "conv2_b").astype(np.float64) * stored(model, "conv2_b_scale")
    np.testing.assert_allclose(scale, np.float32(old * 0.7) * stored(model, "conv2_w_scale"), rtol=1e-6)
    assert np.all(np.abs(value * scale - was) <= 0.501 * scale) and value.dtype == np.float64
    assert stored(new, dq.input[0]).dtype == np.int32
    unfollowed = rescaled(model, {"relu1_q": np.asarray(old * 0.7)}, unfollowed={layer.output[0]})
    kept = next(n for n in unfollowed.graph.node if n.output[0] == layer.output[0])
    assert kept.input[2] == next(n for n in model.graph.node if n.output[0] == layer.output[0]).input[2]


def test_where_a_bias_overflows_weights_get_coarser() -> None:
    """By a power of two, and the bias then fills no more than half of its range."""
    model = onnx.ModelProto()
    model.CopyFrom(build("bias_int32")[0])
    t = next(t for t in model.graph.initializer if t.name == "conv2_b")
    large = np.zeros(8, np.int32)
    large[2] = 2**30 - 8
    t.CopyFrom(numpy_helper.from_array(large, "conv2_b"))
    old = float(stored(model, "relu1_scale"))
    new = rescaled(model, {"relu1_q": np.asarray(old / 8)})  # the bias would be nearly 2**33
    layer = next(n for n in new.graph.node if n.op_type == "Conv" and n.input[0] == "relu1_dq")
    dq = next(n for n in new.graph.node if layer.input[1] in n.output)
    ratio = stored(new, dq.input[1]) / stored(model, "conv2_w_scale")
    assert ratio[2] == 8 and np.all(np.delete(ratio, 2) == 1)
    before, after = stored(model, "conv2_w"), stored(new, dq.input[0])
    assert np.array_equal(after[2], np.rint(before[2] / 8))
    assert np.array_equal(np.delete(after, 2, 0), np.delete(before, 2, 0))
    bias = next(n for n in new.graph.node if layer.input[2] in n.output)
    assert stored(new, bias.input[0])[2] == 2**30 - 8


def test_coarse_integers_keep_their_zero_point() -> None:
    model, _ = build("weight_uint8")
    graph = Graph(model)
    node = next(n for n in graph.nodes if n.op_type == "Conv")
    weight = read_weight(graph, node, 1)
    assert weight is not None
    q, root = weight.quantizer(graph), graph.constant(weight.root)
    assert q is not None and root is not None and np.all(q.zero_point == 128)
    factors = np.ones(len(root))
    factors[1] = 4
    found = coarse(root, weight, q, factors)
    assert found.dtype == np.uint8 and np.array_equal(found[0], root[0])
    assert np.array_equal(found[1], np.rint((root[1].astype(float) - 128) / 4) + 128)


def test_steps_are_followed_to_where_they_end() -> None:
    """Through a pool between Q and DQ, not through another layer."""
    model, _ = build("integer_max_pool")
    now = np.asarray(float(stored(model, "relu1_scale")) * 2)
    steps = Steps(Graph(model), {"relu1_q": now})
    changed = {k for k, s in steps.integers.items() if s.changed}
    assert changed == {"relu1_q", "maxpool1"} and not steps.broken
    assert set(steps.parameters) == {"relu1_q", *(k for k in steps.parameters if k.endswith("dq"))}


@pytest.mark.parametrize(("name", "broken"), [("output_integer", "outside the graph's nodes"), ("residual", "")])
def test_integers_that_others_read_are_said(name: str, broken: str) -> None:
    model, _ = build(name)
    steps = Steps(Graph(model), {"relu1_q": np.asarray(float(stored(model, "relu1_scale")) * 2)})
    assert (broken in " ".join(steps.broken)) if broken else not steps.broken
