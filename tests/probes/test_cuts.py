"""Where models are cut: wide integers and the value that they stand for convert both ways."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import zoo
from wide_layouts import wide

from onnx_ocs import api
from onnx_ocs.model.graph import Graph
from onnx_ocs.passes import Split, Translate
from onnx_ocs.probes.cuts import Cut, find_cuts, nibbles
from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.records.layouts import read_layouts
from onnx_ocs.regions.wide import Wide

UINT8 = Quantizer(np.asarray(0.5), np.asarray(3), None, np.dtype(np.uint8), np.dtype(np.float32), 0, 15)


def cut(layout: Wide | None, q: Quantizer = UINT8) -> Cut:
    return Cut("x", q, "x_q", "k", "x_q", layout, "x_q")


LAYOUT = wide([1, 0, 2], low=[0, 1, 1])


def test_wide_integers_are_the_bases_and_copies_of_a_value() -> None:
    """z = 3, range 0..15: a step up to 12 and down to -3; what lies above or below is in the copies."""
    k = np.asarray([[20, -5, 40]])
    got = cut(LAYOUT).split(k)
    assert LAYOUT.origin.tolist() == [0, 1, 2, 0, 2, 2, 1, 2] and LAYOUT.level.tolist() == [0, 0, 0, 1, 1, 2, -1, -1]
    # 20 = 12 + 8;  -5 = -3 - 2;  40 > 3 * 12: both copies are full
    assert (got.astype(int) - 3).tolist() == [[12, -3, 12, 8, 12, 12, -2, 0]]
    assert got.dtype == np.uint8


@pytest.mark.parametrize("axis", [1, -1])
def test_split_and_total_undo_each_other(axis: int) -> None:
    layout = replace(LAYOUT, axis=axis)
    c = cut(layout)
    rng = np.random.default_rng(0)
    up, low = layout.copies()
    k = rng.integers(-3 * (low + 1), 12 * (up + 1) + 1, (50, 4, 3))
    k = np.moveaxis(k, -1, axis)
    np.testing.assert_array_equal(c.total(c.split(k)), k)


def test_halved_channels_hold_the_value_twice() -> None:
    layout = replace(wide([1, 0, 1]), halved=True)
    c = cut(layout)
    integers = c.split(np.asarray([[5, 7, -3]]))
    assert integers.tolist() == [[8, 10, 0, 8, 0]]
    np.testing.assert_array_equal(c.total(integers), integers)


def test_narrow_integers_stay() -> None:
    k = np.asarray([[1, 200, 0]])
    assert cut(None).split(k).tolist() == k.tolist() and cut(None).total(k).tolist() == k.tolist()


def test_steps_of_a_float_tensor() -> None:
    a = np.asarray([[1.0, 2.0, 3.0]], np.float32)
    np.testing.assert_array_equal(cut(None).steps(a), [[2, 4, 6]])
    np.testing.assert_array_equal(cut(LAYOUT).steps(a), [[2, 4, 6]])
    np.testing.assert_array_equal(cut(replace(wide([1, 0, 1]), halved=True)).steps(a), [[1, 4, 3, 1, 3]])
    per_channel = replace(UINT8, scale=np.asarray([0.5, 1.0, 2.0]), axis=1)
    np.testing.assert_array_equal(cut(None, per_channel).steps(a), [[2, 2, 1.5]])


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [(np.uint8, np.uint8), (np.int16, np.int16), (ml_dtypes.uint4, np.uint8), (ml_dtypes.int4, np.int8)],
)
def test_narrow_types_are_fed_as_bytes(dtype: Any, stored: Any) -> None:
    assert cut(None, replace(UINT8, dtype=np.dtype(dtype))).stored == np.dtype(stored)


def test_rounding_noise_grows_with_range_and_copies() -> None:
    unit = float(np.finfo(np.float32).eps) / 2
    assert cut(None).noise == 15 * unit
    assert cut(LAYOUT).noise == 15 * 3 * unit
    half = replace(UINT8, float_dtype=np.dtype(np.float16))
    assert cut(None, half).noise == 15 * float(np.finfo(np.float16).eps) / 2


@pytest.mark.parametrize("kind", [Translate, Split])
def test_cuts_of_a_rewritten_model(kind: Any) -> None:
    model, _ = zoo.build("residual")
    new = api.rewrite(model, passes=[kind(mode="late")], verify=False).model
    layouts = read_layouts(new)
    cuts = find_cuts(Graph(model), Graph(new), layouts, {"relu1_q": "k1"})
    assert [c.tensor for c in cuts] == ["x", "relu1", "conv2", "relu2"]
    assert [c.wide is not None for c in cuts] == [False, True, False, True]
    by = {c.tensor: c for c in cuts}
    assert by["relu1"].oracle == "k1" and by["x"].oracle == "x_q"
    assert by["relu1"].rewritten == layouts["relu1_q"][0] and by["x"].rewritten == "x_q"


def test_an_integer_clip_is_passed_and_narrow_integers_go_through_a_byte() -> None:
    model, _ = zoo.build("qcdq3")
    graph = Graph(model)
    assert [c.original for c in find_cuts(graph, graph, {}, {})][:2] == ["x_clipped", "relu1_clipped"]
    assert nibbles(graph) == {}
    model, _ = zoo.build("int4")
    graph = Graph(model)
    assert {c.original for c in find_cuts(graph, graph, {}, {})} == {t + "__byte" for t in nibbles(graph)}
    assert set(nibbles(graph).values()) == {np.dtype(ml_dtypes.int4)} and "relu1_q" in nibbles(graph)
