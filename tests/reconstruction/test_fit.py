"""Fitting layer by layer: what it must find where the answer is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from zoo import build

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.probes.reference import reference
from onnx_ocs.reconstruction.find import find_maps
from onnx_ocs.reconstruction.fit import Fitted, Fitting
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.reconstruction.pairing import Reference, pair_layers
from onnx_ocs.regions.find import find_regions

RNG = np.random.default_rng(0)
Feed = Mapping[str, np.ndarray]


def copy(model: onnx.ModelProto) -> onnx.ModelProto:
    new = onnx.ModelProto()
    new.CopyFrom(model)
    return new


def integers(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def damaged(model: onnx.ModelProto, name: str, by: int = 9) -> onnx.ModelProto:
    """A copy with other integers in one weight."""
    new = copy(model)
    t = next(t for t in new.graph.initializer if t.name == name)
    value = numpy_helper.to_array(t)
    noise = np.random.default_rng(1).integers(-by, by + 1, value.shape)
    t.CopyFrom(numpy_helper.from_array(np.clip(value + noise, -127, 127).astype(value.dtype), name))
    return new


def fitted(
    model: onnx.ModelProto,
    floats: onnx.ModelProto,
    feeds: Callable[[], Iterator[Feed]],
    total: int,
    folder: Path,
    mask: Callable[[Feed], Any] = lambda _: None,
) -> tuple[list[Fitted], Fitting]:
    graph = EditableGraph(copy(model))
    layers = [f for f in find_maps(graph) if isinstance(f, LinearMap)]
    pairs = pair_layers(graph, layers, floats, None, [])
    fitting = Fitting(graph, layers, pairs, Reference(floats, None), folder, 0, total, 1, mask, lambda *_: None)
    fitting.run(feeds)
    return fitting.fitted, fitting


def images(count: int, size: int = 8) -> Callable[[], Iterator[Feed]]:
    data = np.random.default_rng(5).standard_normal((count, 4, 6, 6)).astype(np.float32)
    return lambda: ({"x": data[k : k + size]} for k in range(0, count, size))


def test_damaged_integers_are_found_again(tmp_path: Path) -> None:
    """The undamaged model is the float one: its integers explain everything."""
    model, _ = build("three_layers")
    good = integers(model, "conv1_w")
    found, _ = fitted(damaged(model, "conv1_w"), model, images(64), 64, tmp_path)
    new = found[0].values
    assert new is not None and np.abs(new.weight - good).max() <= 1
    assert np.mean(new.weight == good) > 0.9
    assert found[0].after < 0.01 * found[0].before and found[0].signal > 0 and found[0].ridge is not None


def test_later_layers_make_good_what_earlier_ones_cannot(tmp_path: Path) -> None:
    """Asymmetric targets: a gain that is lost in front is put in behind."""
    model, _ = build("conv_relu_conv")
    low = copy(model)
    t = next(t for t in low.graph.initializer if t.name == "relu1_scale")
    t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t) * np.float32(0.5), "relu1_scale"))
    found, _ = fitted(low, model, images(64), 64, tmp_path)
    second = found[1]
    assert second.values is not None and second.after < 0.7 * second.before
    before, after = (np.abs(v).mean() for v in (integers(model, "conv2_w").astype(float), second.values.weight))
    assert second.values.scale is not None or after > 1.05 * before


def test_batches_do_not_matter(tmp_path: Path) -> None:
    model, _ = build("residual")
    low = damaged(model, "conv2_w")
    one, _ = fitted(low, model, images(48, 48), 48, tmp_path)
    many, _ = fitted(low, model, images(48, 5), 48, tmp_path)
    for a, b in zip(one, many, strict=True):
        assert a.values is not None and b.values is not None
        assert np.mean(a.values.weight != b.values.weight) < 0.01


def test_layers_that_do_not_wait_for_each_other_share_a_stage(tmp_path: Path) -> None:
    model, _ = build("concat_wide")
    _, fitting = fitted(model, model, images(16), 16, tmp_path)
    assert [len(s) for s in fitting.stages] == [2, 1]
    model, _ = build("three_layers")
    _, fitting = fitted(model, model, images(16), 16, tmp_path)
    assert [len(s) for s in fitting.stages] == [1, 1, 1]


def test_a_layer_without_a_target_stays(tmp_path: Path) -> None:
    model, _ = build("conv_relu_conv")
    other = damaged(model, "conv2_w", 127)
    found, _ = fitted(model, other, images(32), 32, tmp_path)
    assert found[0].values is not None and found[1].values is None
    assert found[1].why is not None and found[1].why[0] == "no_target"


def test_too_few_rows(tmp_path: Path) -> None:
    """No sample is left to choose by."""
    model, _ = build("conv_relu_conv")
    found, _ = fitted(model, model, images(1, 1), 1, tmp_path)
    assert [f.why and f.why[0] for f in found] == ["few_rows"] * 2


def test_what_is_not_finite(tmp_path: Path) -> None:
    model, _ = build("conv_relu_conv")
    floats = copy(model)
    t = next(t for t in floats.graph.initializer if t.name == "conv2_b")
    t.CopyFrom(numpy_helper.from_array(np.full(8, np.nan, np.float32), "conv2_b"))
    found, _ = fitted(model, floats, images(32), 32, tmp_path)
    assert found[0].values is not None and found[1].values is None
    assert found[1].why is not None and found[1].why[0] == "not_finite"


@pytest.mark.parametrize("masked", [True, False])
def test_rows_that_do_not_count_are_not_drawn(masked: bool, tmp_path: Path) -> None:
    """Positions whose float values are enormous show in what is aimed at, unless a mask leaves them out."""
    model, _ = build("matmul_relu")
    low = damaged(model, "matmul1_w")
    rng = np.random.default_rng(2)
    x = rng.standard_normal((48, 5, 12)).astype(np.float32)
    counts = np.arange(5)[None] < rng.integers(2, 5, (48, 1))
    x[~counts] = 500.0 * rng.standard_normal((int((~counts).sum()), 12))
    floats = reference(model, find_regions(EditableGraph(model), infer_shapes(model)))
    found, _ = fitted(low, floats, lambda: iter([{"x": x}]), 48, tmp_path, lambda _: counts if masked else None)
    spread = found[0].signal / np.count_nonzero(counts)
    assert (spread < 1000) == masked
