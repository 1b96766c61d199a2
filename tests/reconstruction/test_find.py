"""Which layers share a weight, and what becomes of it: one set of new values, better for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from zoo import Net, Style

from onnx_ocs.api import rewrite
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.errors import VerificationError
from onnx_ocs.measurement.quality import compare
from onnx_ocs.model.graph import Graph
from onnx_ocs.passes.reconstruct import Reconstruct
from onnx_ocs.reconstruction.find import find_maps, sharing
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.records.weights import REFITTED, read_refitted
from onnx_ocs.refusals import Refusal

Array = np.ndarray[Any, Any]
Model = onnx.ModelProto


WHOLE = Style(bias="int32")


def twins(style: Style = WHOLE, apart: bool = False, bias: bool = False, behind: bool = False) -> Net:
    """Two layers with one weight, on two inputs; `apart`: each has a DequantizeLinear of its own; `bias`: one bias."""
    n = Net(style, x=(4, 5, 5), z=(4, 5, 5))
    one = n.conv(n.qdq("x", "mid", tag="one"), 4)
    first = n.nodes[-1]
    seen = n.qdq(one if behind else "z", "mid", tag="two")
    weight = first.input[1]
    if apart:
        dq = next(m for m in n.nodes if m.output[0] == weight)
        weight = n.op("DequantizeLinear", *dq.input, out="again", **({"axis": 0} if style.per_channel else {}))
    two = n.conv(seen, 4, weight=weight)
    if bias:
        n.nodes[-1].input[2] = first.input[2]
    elif len(n.nodes[-1].input) > 2 and style.bias == "int32":
        step = n.steps[seen] * n.initializers["conv1_w_scale"]
        n.const("conv2_b_scale", step)
        n.const("conv2_b", np.arange(4), np.int32)
        n.nodes[-2 if n.nodes[-2].output[0] == "conv2_b_dq" else -3].attribute.append(helper.make_attribute("axis", 0))
    n.op("Relu", one, out="left")
    n.op("Relu", two, out="right")
    return n


def damaged(model: Model, seed: int = 0) -> Model:
    new, rng = Model(), np.random.default_rng(seed)
    new.CopyFrom(model)
    for t in new.graph.initializer:
        if t.name == "conv1_w":
            value = numpy_helper.to_array(t)
            few = int(np.abs(value.astype(np.int64)).max()) < 8
            most, top = (2, 7) if few else (9, 127)
            noisy = np.clip(value.astype(np.int64) + rng.integers(-most, most + 1, value.shape), -top, top)
            t.CopyFrom(numpy_helper.from_array(noisy.astype(value.dtype), t.name))
    return new


def samples(count: int, seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {k: rng.standard_normal((count, 4, 5, 5)).astype(np.float32) for k in ("x", "z")}


def maps(model: Model) -> list[LinearMap | Refusal]:
    return find_maps(Graph(model))


@pytest.mark.parametrize("style", [WHOLE, Style(weight="int4", opset=21), Style(bias="none")])
@pytest.mark.parametrize("form", [{}, {"apart": True}, {"bias": True}])
def test_one_weight_for_all_of_them(style: Style, form: dict[str, bool]) -> None:
    """Solved jointly, declared by both, proved; each output is better on samples that no fit has seen."""
    if form.get("bias") and style.bias != "float":
        pytest.skip("an integer bias goes with its own input's step")
    floats = twins(style, **form).model("left", "right")
    model = damaged(floats)
    first, second = maps(model)
    assert isinstance(first, LinearMap) and isinstance(second, LinearMap) and sharing([first, second]) == [[0, 1]]
    result = rewrite(model, calib=samples(64, 1), float_model=floats, passes=[Reconstruct()])
    assert result.verification is not None and result.verification.verdict == "PASSED"
    assert [e["status"] for e in result.report["reconstructions"]] == ["applied", "applied"]
    declared = list(read_refitted(result.model).values())
    assert declared[0].weight == declared[1].weight and declared[0].weight_scale == declared[1].weight_scale
    assert (declared[0].bias == declared[1].bias) == bool(form.get("bias"))
    before, after = compare(floats, [model, result.model], open_samples(samples(32, 9), model))
    assert before.sqnr_db is not None and (after.sqnr_db is None or after.sqnr_db > before.sqnr_db + 3)
    for e in result.report["reconstructions"]:
        assert e["error_after_db"] > e["error_before_db"]


def test_one_behind_the_other_stays() -> None:
    model = twins(behind=True).model("left", "right")
    result = rewrite(model, calib=samples(32, 1), passes=[Reconstruct()], verify=False)
    for e in result.report["reconstructions"]:
        assert e["reason"]["code"] == "weight_shared" and "behind" in e["reason"]["message"]


def other_scale(n: Net) -> None:
    dq = next(m for m in n.nodes if m.output[0] == "again")
    dq.input[1] = n.const("other", 2 * n.initializers[dq.input[1]])


def read_turned(n: Net) -> None:
    reader = next(m for m in n.nodes if m.output[0] == "conv2")
    reader.input[1] = n.op("Transpose", "conv1_w_dq", out="turned", perm=[1, 0, 2, 3])
    n.nodes.insert(n.nodes.index(reader), n.nodes.pop())


def read_elsewhere(n: Net) -> None:
    n.op("Identity", "conv1_w", out="elsewhere")


@pytest.mark.parametrize("change", [other_scale, read_turned, read_elsewhere])
@pytest.mark.parametrize("per_channel", [True, False])
def test_what_reads_it_otherwise_keeps_it(change: Callable[[Net], Any], per_channel: bool) -> None:
    n = twins(Style(bias="none", per_channel=per_channel), apart=change is other_scale)
    change(n)
    found = maps(n.model("left", "right"))
    assert [f.code for f in found if isinstance(f, Refusal)] == ["weight_shared"] * 2


@pytest.mark.parametrize("forget", [0, 1])
def test_a_layer_that_does_not_declare_what_it_shares_is_found_out(
    forget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken rewriter: only one of the two layers says that its weight has changed."""
    from onnx_ocs.reconstruction import judged, run

    genuine = run.written

    def wrong(*args: Any) -> Model:
        model = genuine(*args)
        node = [n for n in model.graph.node if n.op_type == "Conv"][forget]
        for p in [p for p in node.metadata_props if p.key == REFITTED]:
            node.metadata_props.remove(p)
        return model

    floats = twins().model("left", "right")
    monkeypatch.setattr(run, "written", wrong)
    monkeypatch.setattr(judged, "written", wrong)
    with pytest.raises(VerificationError):
        rewrite(damaged(floats), calib=samples(32, 1), float_model=floats, passes=[Reconstruct()])
