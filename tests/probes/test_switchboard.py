"""The switchboard computes what the original, the reference and the rewritten model compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import zoo

from onnx_ocs import api
from onnx_ocs.model.files import fingerprint
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes.translate import Translate
from onnx_ocs.planning.plan import Plan, PlannedRegion
from onnx_ocs.probes.reference import reference
from onnx_ocs.probes.switchboard import Setting, Switchboard, narrow
from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Quantized, Region
from onnx_ocs.runtime import session as runtime
from onnx_ocs.runtime.instrument import expose

Array = np.ndarray[Any, Any]

NAMES = [
    "conv_relu_conv", "implicit_relu", "none_mid", "relu_mid", "three_layers", "residual", "depthwise", "grouped",
    "depthwise_per_channel", "matmul_gelu", "batched_matmul", "channels_last", "clip_cuts", "flatten_gemm",
    "concat_wide", "concat_narrow", "requantized", "requantized_twice", "requantized_coarser", "resize_requantized",
    "multiplied", "small_gelu",
    "concat_requantized", "two_equal_quantizers", "two_different_quantizers", "many_dequantizers", "integer_max_pool",
    "output_float", "output_integer", "branch", "float_read", "clip_is_relu", "qcdq2_residual", "qcdq3_int8",
    "int8_residual", "int4", "uint16", "contrib", "opset10", "opset13", "opset24", "float16", "float16_gelu",
    "unsorted", "listed_inputs", "unnamed", "fixed_batch", "inner_names",
]  # fmt: skip
# the optimized graph of a float16 model keeps float32 where the plain one rounds; 16-bit steps are as fine as float32's
# sums; a bias that is rounded to the new step is not the switchboard's
TOLERANCE = {"float16": 3e-3, "float16_gelu": 5e-3, "uint16": 1e-4}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models run six times faster without onnxruntime's thread pools."""
    make = runtime.session_options

    def options(*args: Any) -> Any:
        o = make(*args)
        o.intra_op_num_threads = 1
        return o

    monkeypatch.setattr(runtime, "session_options", options)


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest) -> Iterator[tuple[str, onnx.ModelProto, dict[str, Array], list[Quantized]]]:
    model, feed = zoo.build(request.param)
    before = model.SerializeToString(deterministic=True)
    yield request.param, model, feed, find_regions(Graph(model), infer_shapes(model))
    assert model.SerializeToString(deterministic=True) == before, "the model was changed"


def grid(r: Quantized) -> Quantizer:
    assert r.quantizer is not None
    return r.quantizer


def close(name: str, got: Array, want: Array) -> None:
    assert got.shape == want.shape
    got, want = got.astype(np.float64), want.astype(np.float64)
    assert np.abs(got - want).max() <= TOLERANCE.get(name, 2e-6) * np.abs(want).max()


def everything(regions: list[Quantized]) -> dict[int, Setting]:
    return {k: narrow(grid(r)) for k, r in enumerate(regions)}


def board_of(model: onnx.ModelProto, regions: list[Quantized]) -> Switchboard:
    return Switchboard(model, regions, infer_shapes(model))


def run(board: Switchboard, feed: Mapping[str, Array], settings: Mapping[int, Setting]) -> Array:
    """The first output."""
    return board.run(feed, settings)[board.outputs[0]]


def test_all_on_is_the_original(case: Any) -> None:
    name, model, feed, regions = case
    board = board_of(model, regions)
    want = zoo.execute(model, feed)[0]
    close(name, run(board, feed, everything(regions)), want)
    off = run(board, feed, {})
    assert np.abs(off - want).max() > 1e-6 * np.abs(want).max(), "the quantizers change nothing, so nothing was tested"


def test_all_off_is_the_reference(case: Any) -> None:
    name, model, feed, regions = case
    close(name, run(board_of(model, regions), feed, {}), zoo.execute(reference(model, regions), feed)[0])


def test_one_on_is_the_reference_with_one_quantizer(case: Any) -> None:
    """What one tensor alone costs: the reference of all others."""
    name, model, feed, regions = case
    carried = {id(n) for r in regions if isinstance(r, Region) for n in r.walk.carried}
    board = board_of(model, regions)
    for k, r in enumerate(regions):
        # a carried quantizer has no switch: it is what its region makes of it
        if any(id(n) in carried for n in r.nodes) or (isinstance(r, Region) and r.walk.carried):
            continue
        others = [o for i, o in enumerate(regions) if i != k]
        want = zoo.execute(reference(model, others), feed)[0]
        close(name, run(board, feed, {k: narrow(grid(r))}), want)


def wide_plan(regions: list[Quantized], factor: float, seed: int) -> list[PlannedRegion]:
    """Another step for all of them, where it may be changed, and random copies."""
    rng = np.random.default_rng(seed)
    carried = {id(n) for r in regions if isinstance(r, Region) for n in r.walk.carried}
    planned = []
    for r in regions:
        if not isinstance(r, Region) or any(id(n) in carried for n in r.nodes):
            continue
        if not r.walk.weights or r.walk.integers_leave:
            continue
        q, c = grid(r), r.walk.channels
        scale = (
            (q.scale * (1 if r.walk.joined or q.float_dtype != np.float32 else factor))
            .astype(q.float_dtype)
            .astype(np.float64)
        )
        up, low = rng.integers(0, 4, c), rng.integers(0, 3, c)
        if r.walk.groups > 1:  # all groups alike
            up[:], low[:] = up[0], low[0]
        if r.bounds[0] >= 0 or np.all(q.zero_point == q.qmin):
            low[:] = 0
        planned.append(PlannedRegion(r.tensor, r.outputs, scale, up, low, ("early", "late")[seed % 2]))
    return planned


def setting(q: Quantizer, p: PlannedRegion) -> Setting:
    low, high = q.zero_point - q.qmin, q.qmax - q.zero_point
    return Setting(p.scale, -(p.copies_low + 1.0) * low, (p.copies + 1.0) * high)


def settings(regions: list[Quantized], planned: list[PlannedRegion]) -> dict[int, Setting]:
    by_name: Mapping[Any, PlannedRegion] = {(p.tensor, p.quantizers): p for p in planned}
    on = everything(regions)
    for k, r in enumerate(regions):
        if r.key in by_name:
            on[k] = setting(grid(r), by_name[r.key])
    return on


@pytest.mark.parametrize(("factor", "seed"), [(0.45, 1), (1.2, 2)])
def test_a_wide_setting_is_the_rewritten_model(case: Any, factor: float, seed: int) -> None:
    name, model, feed, regions = case
    planned = wide_plan(regions, factor, seed)
    result = api.rewrite(model, passes=[Translate(plan=Plan(fingerprint(model), tuple(planned)))], verify=False)
    assert result.changed
    states = {(e["tensor"], e["status"]) for e in result.report["regions"]}
    assert all((p.tensor, "applied") in states for p in planned)
    want = zoo.execute(result.model, feed)[0]
    got = run(board_of(model, regions), feed, settings(regions, planned))
    close(name, got, want)


def test_only_the_steps(case: Any) -> None:
    """No copies at all: the same range of integers, other steps."""
    name, model, feed, regions = case
    planned = [
        replace(p, copies=np.zeros_like(p.copies), copies_low=np.zeros_like(p.copies))
        for p in wide_plan(regions, 1.7, 0)
    ]
    result = api.rewrite(model, passes=[Translate(plan=Plan(fingerprint(model), tuple(planned)))], verify=False)
    close(name, run(board_of(model, regions), feed, settings(regions, planned)), zoo.execute(result.model, feed)[0])


def test_sides_are_bounded_each_for_itself() -> None:
    """Copies below alone change only what was clipped below; channels differ."""
    model, feed = zoo.build("none_mid")
    regions = find_regions(Graph(model), infer_shapes(model))
    k = next(i for i, r in enumerate(regions) if r.tensor == "conv1")
    q = grid(regions[k])
    # the switched model with the dequantized tensor as its first output
    first = onnx.ModelProto()
    first.CopyFrom(expose(model, ["conv1_dq"]))
    del first.graph.output[0]
    board = board_of(first, find_regions(Graph(first), infer_shapes(first)))
    on = everything(regions)
    plain = run(board, feed, on)
    up, low = np.zeros(8), np.zeros(8)
    up[1], low[2] = 2, 5
    high = (q.qmax - q.zero_point) * (up + 1)
    wide = run(board, feed, {**on, k: Setting(q.scale, -(q.zero_point - q.qmin) * (low + 1), high)})
    changed = np.any(wide != plain, axis=(0, 2, 3))
    assert changed.tolist() == [c in (1, 2) for c in range(8)]
    assert np.all(wide[:, 1] >= plain[:, 1]) and np.all(wide[:, 2] <= plain[:, 2])
    x = run(board, feed, {i: s for i, s in on.items() if i != k})
    want = q.scale * np.clip(np.rint(x / q.scale), -128 * (low + 1)[:, None, None], high[:, None, None])
    assert np.abs(wide - want).max() <= 1.01 * q.scale and np.mean(np.abs(wide - want) > 1e-6) < 1e-3
