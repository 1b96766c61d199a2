"""Whether a step may be changed: biases must still fit, and nobody else may read the integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from regions_of import graph_and_regions
from zoo import Style, build, image

from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.steps import check_rescale


def asked(model: onnx.ModelProto, factor: float, tensor: str = "relu1") -> Refusal | None:
    graph, regions = graph_and_regions(model)
    q = regions[tensor].quantizer
    assert q is not None
    before = model.SerializeToString()
    found = check_rescale(graph, regions[tensor], q.scale * factor)
    assert model.SerializeToString() == before and not graph.touched and not graph.added
    return found


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 2.0])
@pytest.mark.parametrize("name", ["conv_relu_conv", "bias_int32", "per_tensor", "matmul_relu", "requantized", "qcdq3"])
def test_an_ordinary_step_may_change(name: str, factor: float) -> None:
    assert asked(build(name)[0], factor) is None


def test_integers_that_somebody_else_reads_keep_their_step() -> None:
    n, x = image(Style())
    q = n.q(n.op("Relu", n.conv(x)))
    y = n.conv(n.dq(q))
    n.op("Cast", q, out="cast", to=1)
    why = asked(n.model(y, "cast"), 0.5)
    assert why is not None and (why.code, why.node) == ("integers_leave", "relu1_q/QuantizeLinear")


def test_a_grid_that_joins_several_tensors_keeps_its_step() -> None:
    why = asked(build("concat_requantized")[0], 0.5)
    assert why is not None and why.code == "joined"


def test_half_precision_must_hold_the_new_range() -> None:
    model, _ = build("float16")
    _, regions = graph_and_regions(model)
    q = regions["relu1"].quantizer
    assert q is not None
    assert asked(model, 1.0) is None
    wide = Style(half=True, opset=21, dtype="uint16")
    n, x = image(wide)
    model = n.model(n.conv(n.qdq(n.op("Relu", n.conv(x)))))
    why = asked(model, 0.7)
    assert why is not None and why.code == "half_precision" and "float16" in why.message


def biased(bias: float, **style: Any) -> onnx.ModelProto:
    """Layers with an int32 bias, that of the second close to the ends of int32 for one channel."""
    n, x = image(Style(bias="int32", **style))
    model = n.model(n.conv(n.qdq(n.op("Relu", n.conv(x)))))
    t = next(t for t in model.graph.initializer if t.name == "conv2_b")
    value = numpy_helper.to_array(t).copy()
    value[3] = int(bias * (2**31 - 1))
    t.CopyFrom(numpy_helper.from_array(value, t.name))
    return model


@pytest.mark.parametrize(
    ("bias", "factor", "fits"),
    [
        (0.9, 0.95, True),  # 0.95 of the range
        (0.4, 0.45, True),
        (-0.9, 1.5, True),  # a larger step makes it smaller
    ],
)
def test_a_bias_that_stays_in_its_range(bias: float, factor: float, fits: bool) -> None:
    assert (asked(biased(bias), factor) is None) is fits


def test_weights_get_coarser_where_the_bias_would_overflow() -> None:
    """Per channel, and the bias is so large that the weights' rounding does not count: it is allowed."""
    assert asked(biased(0.9), 0.5) is None


def test_a_bias_that_cannot_follow_is_refused() -> None:
    """One step for all channels: no channel can be made coarser."""
    why = asked(biased(0.9, per_channel=False), 0.5)
    assert why is not None and (why.code, why.node) == ("bias_range", "conv2/Conv")
    assert asked(biased(0.9, per_channel=False), 0.95) is None


def test_weights_whose_rounding_would_show_stay() -> None:
    """A bias of one byte is soon beyond its range, and small beside what coarser weights would change."""
    n, x = image(Style(bias="int32"))
    model = n.model(n.conv(n.qdq(n.op("Relu", n.conv(x)))))
    for t in model.graph.initializer:
        if t.name == "conv2_b":
            t.CopyFrom(numpy_helper.from_array(np.full(8, 100, np.int8), t.name))
    why = asked(model, 0.25)
    assert why is not None and why.code == "bias_range"
