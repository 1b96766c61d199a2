"""What a Q node says of itself: written, and read back from the file alone."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from onnx import numpy_helper
from zoo import Style, image

from onnx_ocs import api
from onnx_ocs.errors import UserError
from onnx_ocs.model.tensors import pack
from onnx_ocs.passes import Split, Translate
from onnx_ocs.records.layouts import LAYOUT, SCALE, read_layouts, read_scales, record_layout
from onnx_ocs.regions.wide import Wide

ORIGIN, LEVEL = np.asarray([0, 1, 2, 1, 2, 2]), np.asarray([0, 0, 0, 1, 1, -1])


def quantizer(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.op_type == "QuantizeLinear")


def model_with(scale: Any) -> onnx.ModelProto:
    n, x = image(Style(), shape=(np.size(scale), 4, 4))
    model = n.model(n.op("Relu", x))
    if np.size(scale) > 1:
        t = next(t for t in model.graph.initializer if t.name == "x_scale")
        t.CopyFrom(numpy_helper.from_array(np.asarray(scale, np.float32), t.name))
        z = next(t for t in model.graph.initializer if t.name == "x_zero")
        z.CopyFrom(numpy_helper.from_array(np.full(np.size(scale), 128, np.uint8), z.name))
    return model


@pytest.mark.parametrize("halved", [False, True])
def test_a_layout_comes_back(halved: bool) -> None:
    model = model_with(1.0)
    record_layout(quantizer(model), "old_q", Wide(1, ORIGIN, LEVEL, 3, None, halved=halved))
    model = onnx.ModelProto.FromString(model.SerializeToString())
    assert read_layouts(model).keys() == {"old_q"}
    name, wide = read_layouts(model)["old_q"]
    assert name == "x_q" and (wide.axis, wide.narrow, wide.halved, wide.integer) == (1, 3, halved, True)
    np.testing.assert_array_equal(wide.origin, ORIGIN)
    np.testing.assert_array_equal(wide.level, LEVEL)
    assert [p.key for p in quantizer(model).metadata_props] == [LAYOUT]


@pytest.mark.parametrize(
    "text",
    [
        "", "[" * 100_000, "[]", "3", "{}", '{"axis": 1, "origin": "", "level": "", "narrow": 1}',
        *(json.dumps({"original": "q", "axis": 1, "narrow": n, "origin": pack(o), "level": pack(LEVEL)})
          for n, o in ((10**12, ORIGIN), (2, ORIGIN), (3, ORIGIN + 1), (3, ORIGIN[:-1]), (3, ORIGIN * 0))),
        json.dumps({"original": "q", "axis": 1, "narrow": 3, "origin": pack(ORIGIN)[:-8], "level": pack(LEVEL)}),
    ],
)  # fmt: skip
def test_a_damaged_record(text: str) -> None:
    model = model_with(1.0)
    for key, value in ((LAYOUT, text), (SCALE, "[0.5]")):
        quantizer(model).metadata_props.add(key=key, value=value)
    for read in (read_layouts, read_scales):
        with pytest.raises(UserError, match=r"the layout at 'x_q/QuantizeLinear' has (no readable|a damaged) record"):
            read(model)


def test_a_record_for_another_number_of_steps() -> None:
    model = model_with([1.0, 2.0, 3.0])
    record_layout(quantizer(model), "old_q", Wide(1, ORIGIN, LEVEL, 3, None))
    quantizer(model).metadata_props.add(key=SCALE, value="[0.5]")
    with pytest.raises(UserError, match="a damaged record"):
        read_scales(model)


def test_without_records_there_is_nothing() -> None:
    model, _ = zoo.build("residual")
    assert read_layouts(model) == {} and read_scales(model) == {}


def test_the_step_now_is_told_by_the_original_name() -> None:
    model = model_with(1.0)
    step = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "x_scale"))
    q = quantizer(model)
    q.metadata_props.add(key=SCALE, value="[0.5]")
    assert read_scales(model).keys() == {"x_q"} and read_scales(model)["x_q"] == step
    record_layout(q, "old_q", Wide(1, ORIGIN, LEVEL, 3, None))
    assert read_scales(model).keys() == {"old_q"}


def test_steps_of_wide_channels_are_those_of_their_bases() -> None:
    """Bases need not come first: behind a grouped layer they stand in blocks."""
    scale = [0.1, 0.7, 0.2, 0.3, 0.8, 0.9]  # the copies' steps are not looked at
    model = model_with(scale)
    q = quantizer(model)
    q.attribute.append(onnx.helper.make_attribute("axis", 1))
    q.metadata_props.add(key=SCALE, value="[]")
    level = np.asarray([0, 1, 0, 0, 1, -1])
    record_layout(q, "old_q", Wide(1, np.asarray([2, 2, 0, 1, 1, 1]), level, 3, None))
    np.testing.assert_allclose(read_scales(model)["old_q"], [0.2, 0.3, 0.1], rtol=1e-6)


@pytest.mark.parametrize("kind", [Translate, Split])
def test_passes_declare_what_they_widen(kind: Any) -> None:
    model, _ = zoo.build("three_layers")
    result = api.rewrite(model, passes=[kind()], verify=False)
    layouts = read_layouts(result.model)
    applied = {e["tensor"]: e for e in result.report["regions"] if e["status"] == "applied"}
    assert {t + "_q" for t in applied} == layouts.keys() and applied
    for tensor, e in applied.items():
        now, wide = layouts[tensor + "_q"]
        assert now in {o for n in result.model.graph.node for o in n.output}
        assert [c.tolist() for c in wide.copies()] == [e["copies"], e["copies_low"]]
        assert wide.narrow == e["channels"] and wide.halved == (kind is Split)
