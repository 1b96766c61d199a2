"""Errors of single tensors: against figures computed in the test by other means, and on files of many exporters."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import gained_nets
import numpy as np
import onnx
import pytest
from zoo import Net, Style

import onnx_ocs
from onnx_ocs import api
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.execution.choice import engine
from onnx_ocs.measurement.tensor_errors import measure_layers
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes import Regrid
from onnx_ocs.passes.translate import Translate
from onnx_ocs.probes.reference import reference
from onnx_ocs.regions.find import find_regions
from onnx_ocs.runtime.instrument import expose
from onnx_ocs.runtime.session import Session
from onnx_ocs.verification.oracle import WideQuantizer, oracle

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "digits.w8a2.onnx"
CALIB = ROOT / "models" / "digits.calib.npz"
PIXELS = np.load(CALIB)["pixels"][:32]
DATA = sorted((ROOT / "tests" / "data").glob("*.onnx"))


def sqnr(reference: np.ndarray, value: np.ndarray) -> float:
    r, v = reference.astype(np.float64), value.astype(np.float64)
    return float(10 * np.log10((r**2).sum() / ((r - v) ** 2).sum()))


@pytest.fixture(scope="module")
def digits():
    """The original, a rewrite at the same steps, its report, and all tensors of the float reference."""
    original = onnx.load(DIGITS)
    result = api.rewrite(original, calib=str(CALIB), passes=[Translate(ratio=1.0, copies=3)])
    regions = find_regions(Graph(original), infer_shapes(original))
    exact = Session(expose(reference(original, regions), [r.tensor for r in regions])).run({"pixels": PIXELS})
    return original, result, regions, exact | {"pixels": PIXELS}


def test_errors_are_those_of_the_definition(digits):
    original, result, regions, exact = digits
    entries = {tuple(e["quantizers"]): e for e in result.report["regions"]}
    wide = {
        o: WideQuantizer(
            r.quantizer, e["axis"], np.asarray(e["copies"]), np.asarray(e["copies_low"]), exact[r.tensor].ndim
        )
        for r in regions
        if (e := entries[r.outputs])["status"] == "applied"
        for o in r.outputs
    }
    assert len(wide) == 12
    truth, _ = oracle(original, wide)
    dequantized = {o: f"{o.removesuffix('_quantized')}_dequantized" for o in wide}
    before = Session(expose(original, dequantized.values())).run({"pixels": PIXELS})
    after = Session(expose(truth, dequantized.values())).run({"pixels": PIXELS})
    for r in regions:
        o = r.outputs[0]
        if o not in wide:
            continue
        e, q, a = entries[r.outputs], r.quantizer, exact[r.tensor]
        own = np.clip(np.rint(a / q.scale), 0, q.qmax) * q.scale
        assert e["error"]["samples"] == 32
        assert e["error"]["isolated_before_db"] == pytest.approx(sqnr(a, own), abs=1e-3)
        assert e["error"]["accumulated_before_db"] == pytest.approx(sqnr(a, before[dequantized[o]]), abs=1e-2)
        assert e["error"]["accumulated_after_db"] == pytest.approx(
            sqnr(a, after[dequantized[o]]), abs=0.1
        )  # roundings on ties
        n = (np.asarray(e["copies"]) + 1).reshape([-1 if k == e["axis"] else 1 for k in range(a.ndim)])
        kept = np.clip(np.rint(a / q.scale), 0, n * q.qmax) * q.scale
        assert e["error"]["isolated_after_db"] == pytest.approx(sqnr(a, kept), abs=1e-3)
        lost, still = (np.maximum(a - top * float(q.x_clip), 0).sum(dtype=np.float64) for top in (1, n))
        assert e["mass_saved"] == (pytest.approx(1 - still / lost, abs=1e-4) if lost else None)
        assert sum(e["histogram"]["counts"]) == np.count_nonzero(a)
        beyond = (a > float(q.x_clip)) & (a <= (n * q.x_clip).astype(np.float32))  # what lies above both is lost
        assert sum(e["histogram"]["saved"]) == int(beyond.sum())


def test_workers_measure_the_same_bits(digits):
    original, result, *_ = digits
    context = Context(open_samples(str(CALIB), original), limit=29)
    alone = measure_layers(original, result.model, context)
    with ThreadPoolExecutor(3) as pool, engine(pool) as workers:
        assert measure_layers(original, result.model, replace(context, engine=workers)) == alone
    assert all(e["error"]["samples"] == 29 for e in alone.values())


def test_steps_that_changed(tmp_path):
    """The error after is that of the new grid."""
    result = api.rewrite(
        DIGITS,
        calib=str(CALIB),
        passes=[Translate()],
        options=api.PlanOptions(budget=None, ratio=0.5, effort="quick"),
        float_model=ROOT / "models/digits.fp32.onnx",
    )
    changed = [e for e in result.report["regions"] if e["scale"] != e["scale_before"]]
    for e in changed:
        assert e["error"]["isolated_after_db"] != e["error"]["isolated_before_db"]
    last = result.report["regions"][-1]["error"]
    assert last["accumulated_after_db"] > last["accumulated_before_db"] + 1


def test_without_a_rewrite():
    model = onnx.load(DIGITS)
    found = measure_layers(model, None, Context(open_samples(str(CALIB), model), limit=5))
    assert len(found) == 13
    for e in found.values():
        assert e["error"]["samples"] >= 5
        assert e["error"]["isolated_before_db"] > 5
        assert set(e["error"]) == {"isolated_before_db", "accumulated_before_db", "samples"}
        assert e["mass_saved"] is None
        assert not any(e["histogram"]["saved"])
    assert measure_layers(model, None, Context()) == {}


@pytest.mark.parametrize("path", DATA, ids=lambda p: p.stem)
def test_every_exporter(path):
    """A quantizer's own error is never larger than the whole tensor, and a same-step rewrite never adds to it."""
    model = onnx.load(path)
    try:
        Session(model)
    except Exception:
        pytest.skip("onnxruntime does not load it")
    samples = random_samples(model, 4, 0)
    new = api.rewrite(model, calib=samples, passes=[Translate()], verify=False)
    for e in new.report["regions"]:
        if "error" not in e:
            assert e["scale_before"] is None
            continue
        error = e["error"]
        if error["isolated_before_db"] is not None:
            assert error["isolated_before_db"] > -1e-6
        if e["status"] == "applied" and error["isolated_before_db"] is not None:
            assert error["isolated_after_db"] is None or error["isolated_after_db"] > error["isolated_before_db"] - 1e-3


def test_only_the_input_is_quantized():
    """No float tensor has to be computed: what is fed is all there is."""
    n = Net(Style(), x=(4, 6, 6))
    model = n.model(n.op("Sigmoid", n.qdq("x", "mid")))
    error = api.inspect(model, calib=n.feed)["regions"][0]["error"]
    assert error["accumulated_before_db"] == error["isolated_before_db"] > 0


@pytest.mark.parametrize("function", ["Relu", "Sigmoid", "Neg"])
def test_what_the_function_behind_cuts_off_is_no_error(function: str) -> None:
    """Values reach from -8 to 8, the grid from -1.0 to 24.5: a ReLU does not see that, a straight line does."""
    n = Net(Style(), x=(4, 6, 6))
    scale, zero = n.const("s", np.float32(0.1)), n.const("z", 10, np.uint8)
    back = n.op("DequantizeLinear", n.op("QuantizeLinear", "x", scale, zero), scale, zero)
    model = n.model(n.op(function, back))
    x = np.random.default_rng(0).uniform(-8, 8, (32, 4, 6, 6)).astype(np.float32)
    error = api.inspect(model, calib={"x": x})["regions"][0]["error"]
    functions = {"Relu": lambda v: np.maximum(v, 0), "Sigmoid": lambda v: 1 / (1 + np.exp(-v)), "Neg": lambda v: v}
    behind = functions[function]
    found = np.clip(np.rint(x / np.float32(0.1)), -10, 245) * np.float32(0.1)
    for key in ("isolated_before_db", "accumulated_before_db"):
        assert error[key] == pytest.approx(sqnr(behind(x), behind(found)), abs=1e-2)
    assert (error["isolated_before_db"] > 40) == (function == "Relu")


@pytest.mark.parametrize("name", ["norm", "convs", "residual", "three pairs"])
def test_channels_with_gains_are_compared_in_their_own_units(name: str) -> None:
    """What a tensor holds behind its gains, divided by them, is near the reference, and nearer than before."""
    model = gained_nets.build(name)
    samples = gained_nets.samples(model, 32)
    new = onnx_ocs.rewrite(model, calib=samples, passes=[Regrid(unsigned=False, max_latency=None)])
    assert any(e["edit"] == "gains" for e in new.report["grids"])
    found = measure_layers(model, new.model, Context(samples=open_samples(samples, model)))
    (changed,) = [v for k, v in found.items() if k == tuple(new.report["grids"][-1]["quantizers"])]
    error = changed["error"]
    assert error["accumulated_after_db"] == pytest.approx(error["isolated_after_db"], abs=3)
    assert error["isolated_after_db"] > error["isolated_before_db"] - 3  # large channels keep their step
    assert error["isolated_after_db"] > 20
