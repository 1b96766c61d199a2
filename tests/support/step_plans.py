"""Plans that change steps, and networks whose biases follow them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import zoo
from onnx import numpy_helper
from zoo import Net, Style

from onnx_ocs.model.files import fingerprint
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.planning.plan import Plan, PlannedRegion
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Quantized, Region

Array = np.ndarray[Any, Any]


Model = onnx.ModelProto


Wish = tuple[float, int, str]  # factor of the step, copies of every second channel, mode


def regions_of(model: Model) -> list[Quantized]:
    return find_regions(Graph(model), infer_shapes(model))


def planned(region: Region, factor: float, copies: int = 0, mode: str = "late") -> PlannedRegion:
    q, walk = region.quantizer, region.walk
    scale = (q.scale * factor).astype(q.float_dtype).astype(np.float64)
    up = np.zeros(walk.channels, np.int64)
    up[:: 1 if walk.groups > 1 else 2] = copies
    return PlannedRegion(region.tensor, region.outputs, scale, up, np.zeros_like(up), mode)


def plan_for(model: Model, **wishes: Wish) -> Plan:
    entries = [planned(r, *wishes[r.tensor]) for r in regions_of(model) if r.tensor in wishes]
    assert len(entries) >= len(wishes)
    return Plan(fingerprint(model), tuple(entries))


BIASED = {
    "conv": zoo.conv_relu_conv,
    "three layers": zoo.three_layers,
    "depthwise": zoo.grouped(8),
    "grouped": zoo.grouped(2),
    "transposed": zoo.transposed,
    "gemm": zoo.gemm(0),
    "gemm transB": zoo.gemm(1),
    "gemm alpha beta": zoo.gemm(1, alpha=0.5, beta=2.0),
    "residual": zoo.residual,
    "requantized": zoo.requantized,
    "two readers": zoo.readers(Net.conv, lambda n, a: n.conv(a, kernel=1)),
}


def biased(name: str, **style: Any) -> tuple[Net, Model]:
    n, outputs = BIASED[name](Style(bias="int32", **style))
    return n, n.model(*outputs)


def large_bias(per_channel: bool = True) -> Model:
    """A layer with a channel that is its bias and little else, 2^30 steps."""
    _, model = biased("three layers", per_channel=per_channel)
    bias = next(t for t in model.graph.initializer if t.name == "conv2_b")
    value = numpy_helper.to_array(bias).copy()
    value[3] = -(2**30)
    bias.CopyFrom(numpy_helper.from_array(value, bias.name))
    return model
