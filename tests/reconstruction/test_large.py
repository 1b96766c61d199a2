"""Layers that are fitted some outputs at a time: the fit is that of the whole, up to rounding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from zoo import build

import onnx_ocs
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.reconstruction import equations, large
from onnx_ocs.reconstruction.find import find_maps
from onnx_ocs.reconstruction.fit import Fitted, Fitting
from onnx_ocs.reconstruction.large import Kept, at_once, is_large, sample
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.reconstruction.pairing import Pair, Reference, pair_layers
from onnx_ocs.reconstruction.shelf import Shelf

NETS = ["matmul_relu", "gemm_transposed", "matmul_gelu"]


def layers_of(model: onnx.ModelProto) -> tuple[EditableGraph, list[LinearMap]]:
    new = onnx.ModelProto()
    new.CopyFrom(model)
    graph = EditableGraph(new)
    return graph, [f for f in find_maps(graph) if isinstance(f, LinearMap)]


def fitted(model: onnx.ModelProto, floats: onnx.ModelProto, data: Mapping[str, np.ndarray], folder: Path,
           weigh: bool = False) -> list[Fitted]:  # fmt: skip
    graph, layers = layers_of(model)
    count = len(next(iter(data.values())))

    def feeds() -> Iterator[Mapping[str, np.ndarray]]:
        return ({n: v[k : k + 8] for n, v in data.items()} for k in range(0, count, 8))

    def weights(feed: Mapping[str, np.ndarray]) -> np.ndarray | None:
        return np.linspace(0.5, 1.5, len(next(iter(feed.values())))).astype(np.float32) if weigh else None

    pairs = pair_layers(graph, layers, floats, None, [])
    fitting = Fitting(graph, layers, pairs, Reference(floats, None), folder, 0, count, 1, weights, lambda *_: None)
    fitting.run(feeds)
    return fitting.fitted


def damaged(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with other integers in all weights."""
    new, rng = onnx.ModelProto(), np.random.default_rng(1)
    new.CopyFrom(model)
    for t in new.graph.initializer:
        if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1:
            value = numpy_helper.to_array(t).astype(int)
            other = np.clip(value + rng.integers(-9, 10, value.shape), -127, 127).astype(np.int8)
            t.CopyFrom(numpy_helper.from_array(other, t.name))
    return new


@pytest.mark.parametrize("few", [2, 0])
@pytest.mark.parametrize("weigh", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_parts_are_fitted_as_the_whole_is(
    name: str, weigh: bool, few: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By moments, and row by row (`few` = 0: all rows are few)."""
    monkeypatch.setattr(equations, "FEW", few)
    model, feed = build(name)
    rng = np.random.default_rng(0)
    data = {k: rng.standard_normal((64, *v.shape[1:])).astype(v.dtype) for k, v in feed.items()}
    low = damaged(model)
    whole = fitted(low, model, data, tmp_path, weigh)
    monkeypatch.setattr(large, "LARGE", 20)
    monkeypatch.setattr(large, "PART", 20)
    _, layers = layers_of(low)
    assert any(map(is_large, layers))
    (tmp_path / "parts").mkdir()
    parts = fitted(low, model, data, tmp_path / "parts", weigh)
    for a, b in zip(whole, parts, strict=True):
        assert (a.values is None) == (b.values is None) and a.why == b.why
        if a.values is None or b.values is None:
            continue
        assert a.values.weight.shape == b.values.weight.shape
        assert a.signal == pytest.approx(b.signal, rel=1e-4)
        assert a.before == pytest.approx(b.before, rel=1e-3, abs=1e-3 * a.signal)
        assert a.after == pytest.approx(b.after, rel=0.05, abs=1e-5 * a.signal)
        assert np.mean(a.values.weight != b.values.weight) < 0.02
        if a.values.bias is not None and b.values.bias is not None:
            np.testing.assert_allclose(a.values.bias, b.values.bias, rtol=1e-3, atol=1)


def test_a_large_layer_is_rewritten_and_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "LARGE", 20)
    monkeypatch.setattr(large, "PART", 20)
    model, feed = build("matmul_gelu")
    rng = np.random.default_rng(0)
    calib = {k: (2 * rng.standard_normal((48, *v.shape[1:]))).astype(v.dtype) for k, v in feed.items()}
    done = onnx_ocs.rewrite(model, calib=calib, passes=["reconstruct"])
    assert done.changed and done.verification is not None and done.verification.verdict == "PASSED"


def test_rows_are_given_in_order_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "LARGE", 20)
    monkeypatch.setattr(large, "PART", 20)
    _, layers = layers_of(build("matmul_relu")[0])
    layer = next(x for x in layers if is_large(x))
    outputs, inputs = layer.rows.size, layer.columns.size
    kept = Kept(0, layer, Shelf(tmp_path, 0))
    assert np.array_equal(np.concatenate(kept.parts[1:]), np.arange(outputs))
    x, t = np.random.default_rng(0).standard_normal((2, 4, max(inputs, outputs))).astype(np.float32)
    for part in (1, 0):
        rows = slice(2 * part, 2 * part + 2)
        kept.keep(part, x[None, rows, :inputs], t[rows, :outputs], np.arange(4)[rows], np.empty(0))
    got, folds, weights = kept.inputs()
    assert np.array_equal(got, x[:, :inputs]) and folds.tolist() == [0, 1, 2, 3] and not weights.size
    found = np.concatenate([kept.targets(k) for k in range(1, len(kept.parts))], axis=1)
    assert np.array_equal(found, t[:, :outputs])
    kept.targets(0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_rows(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None, and none to choose by."""
    monkeypatch.setattr(large, "LARGE", 20)
    graph, layers = layers_of(build("matmul_relu")[0])
    layer = next(x for x in layers if is_large(x))
    kept = Kept(0, layer, Shelf(tmp_path, 1 << 20))
    if count:
        x, t = (np.ones((count, n), np.float32) for n in (layer.columns.size, layer.rows.size))
        kept.keep(0, x[None], t, np.zeros(count), np.empty(0))
    assert large.fit(kept, Pair("y", False, None, None), True, tmp_path, graph) == large.FEW_ROWS


def test_layers_side_by_side_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    _, layers = layers_of(build("matmul_relu")[0])
    size = max(x.rows.size * x.columns.size for x in layers)
    for part, wanted in ((3 * size, 3), (size - 1, 1)):
        monkeypatch.setattr(large, "BESIDE", part)
        assert at_once(layers) == wanted
    assert at_once([]) > 1


def test_one_output_stands_for_a_large_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    _, layers = layers_of(build("matmul_relu")[0])
    assert sample(layers[0]) is layers[0]
    monkeypatch.setattr(large, "LARGE", 1)
    one = sample(layers[0])
    assert one.rows.shape == (1, 1)
    weight = layers[0].weight.value
    np.testing.assert_array_equal(one.matrix(weight)[0], layers[0].matrix(weight)[0][:1])
