"""Integers lose their sign where layers find integer kernels for it, and nothing else changes."""

from __future__ import annotations

import platform

import numpy as np
import onnx
import pytest
import zoo
from tiny import model, node

from onnx_ocs.api import rewrite
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes import Regrid
from onnx_ocs.records.types import read_unsigned
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Quantized
from onnx_ocs.regridding import sign
from onnx_ocs.targets.ort import operators
from onnx_ocs.verification.verify import verify

RNG = np.random.default_rng(0)
SAMPLES = {"x": RNG.standard_normal((16, 4, 8)).astype(np.float32)}
X86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="onnxruntime has kernels for int8 elsewhere"
)


def attention(dtype: type = np.int8, readers: int = 3) -> onnx.ModelProto:
    """One quantized tensor that several matrix products read."""
    zero = np.asarray(0 if dtype is np.int8 else 128, dtype)
    values = {"s": np.float32(0.03), "z": zero, "ws": np.float32(0.01), "wz": np.int8(0)}
    values |= {f"w{k}": RNG.integers(-100, 101, (8, 8)).astype(np.int8) for k in range(readers)}
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d")]
    for k in range(readers):
        nodes += [node("DequantizeLinear", f"w{k} ws wz", f"v{k}"), node("MatMul", f"d v{k}", f"y{k}")]
    outputs = [f"y{k}" for k in range(readers)]
    return model(nodes, values, {"x": ["N", 4, 8]}, outputs)


def regions(model: onnx.ModelProto) -> list[Quantized]:
    return find_regions(Graph(model), infer_shapes(model))


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU whose kernels do not saturate."""
    monkeypatch.setattr(sign, "may_saturate", lambda: False)


@X86
@pytest.mark.usefixtures("exact")
def test_layers_find_their_kernels_and_values_stay() -> None:
    before = attention()
    result = rewrite(before, calib=SAMPLES, passes=[Regrid()])
    assert result.changed and result.verification is not None and result.verification.verdict == "PASSED"
    kernels = [o.layers for o in map(operators, (before, result.model)) if o]
    assert kernels == [0, 3]
    assert read_unsigned(result.model) == {"q"}
    for old, new in zip(zoo.execute(before, SAMPLES), zoo.execute(result.model, SAMPLES), strict=True):
        assert np.array_equal(old, new)
    (entry,) = result.report["grids"]
    assert (entry["edit"], entry["zero_point_before"], entry["zero_point"]) == ("unsigned", 0, 128)
    assert not rewrite(result.model, calib=SAMPLES, passes=[Regrid()]).changed


@X86
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("broken", ["zero-point", "one reader", "not declared"])
def test_the_proof_sees_what_is_wrong(broken: str) -> None:
    before = attention()
    new = rewrite(before, calib=SAMPLES, passes=[Regrid()], verify=False).model
    zero = next(t for t in new.graph.initializer if t.data_type == onnx.TensorProto.UINT8)
    q, d = (next(n for n in new.graph.node if n.output[0] == o) for o in ("q", "d"))
    if broken == "zero-point":
        zero.CopyFrom(onnx.numpy_helper.from_array(np.asarray(127, np.uint8), zero.name))
    elif broken == "one reader":
        new.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(129, np.uint8), "other"))
        d.input[2] = "other"
    else:
        del q.metadata_props[:]
    assert verify(before, new, open_samples(SAMPLES, before)).verdict == "FAILED"


@X86
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    "before",
    [attention(np.uint8), attention(readers=1), zoo.build("int8")[0]],
    ids=["unsigned already", "onnxruntime does it by itself", "convolutions"],
)
def test_nothing_to_win(before: onnx.ModelProto) -> None:
    new = onnx.ModelProto()
    new.CopyFrom(before)
    assert sign.without_sign(new, regions(new), Regrid(), {}) == [] and new == before


def test_where_kernels_saturate_floats_are_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign, "may_saturate", lambda: True)
    assert sign.without_sign(attention(), regions(attention()), Regrid(), {}) == []


@pytest.mark.usefixtures("exact")
def test_it_can_be_switched_off() -> None:
    assert not rewrite(attention(), calib=SAMPLES, passes=[Regrid(unsigned=False)]).changed
