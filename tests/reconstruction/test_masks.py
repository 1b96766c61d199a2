"""Which input says what is padding: found by what is done with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_ocs.errors import UserError
from onnx_ocs.model.graph import Graph
from onnx_ocs.reconstruction.masks import find_mask, mask_of, rows_of, weights_of

IDS = np.asarray([[1, 2, 0], [2, 2, 1]])
MASK = np.asarray([[1, 1, 0], [1, 1, 1]])


def encoder(pooled: bool = False) -> Graph:
    """Token types are looked up; the mask works on scores, or weighs a mean."""
    nodes = [
        helper.make_node("Gather", ["words", "ids"], ["e"]),
        helper.make_node("Gather", ["types", "kinds"], ["k"]),
        helper.make_node("Add", ["e", "k"], ["h"]),
        helper.make_node("Transpose", ["h"], ["ht"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["h", "ht"], ["scores"]),
        helper.make_node("Cast", ["attend"], ["float_mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["float_mask", "one"], ["row"]),
        helper.make_node("Sub", ["row", "unit"], ["off"]),
        helper.make_node("Add", ["scores", "off"], ["masked"]),
        helper.make_node("Identity" if pooled else "Softmax", ["masked"], ["p"]),
        helper.make_node("MatMul", ["p", "h"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    constants = {
        "words": rng.standard_normal((3, 4)).astype(np.float32), "one": np.asarray([1]), "unit": np.float32(1),
        "types": rng.standard_normal((2, 4)).astype(np.float32),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(t, TensorProto.INT64, ["N", 3]) for t in ("ids", "kinds", "attend")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 4])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def feed(**values: np.ndarray) -> dict[str, Any]:
    return {"ids": IDS, "kinds": 1 - MASK, "attend": MASK} | values


def test_it_is_found_among_others() -> None:
    assert find_mask(encoder(), [feed()]) == "attend"


def test_what_holds_other_numbers_is_none() -> None:
    assert find_mask(encoder(), [feed(), feed(attend=2 * MASK)]) is None


def test_what_no_softmax_sees_is_none() -> None:
    assert find_mask(encoder(pooled=True), [feed()]) is None


def test_rows_that_count() -> None:
    rows = mask_of(encoder(), None, [feed()])(feed())
    assert rows is not None and rows.tolist() == (MASK == 1).tolist()
    assert mask_of(encoder(pooled=True), None, [feed()])(feed()) is None


def test_the_user_may_name_one() -> None:
    rows = mask_of(encoder(pooled=True), "kinds", [feed()])(feed())
    assert rows is not None and rows.tolist() == (MASK == 0).tolist()
    with pytest.raises(UserError, match="no input 'padding' for a mask: choose from attend, ids, kinds"):
        mask_of(encoder(), "padding", [feed()])


def test_rows_of_a_layer() -> None:
    mask = np.asarray([[1, 0, 2], [1, 1, 0]], np.float32)
    assert rows_of(None, (2, 3), 2) is None
    assert np.array_equal(rows_of(mask, (2, 3), 2), mask.reshape(-1))  # a MatMul's
    assert np.array_equal(rows_of(mask, (6,), 2), mask.reshape(-1))  # a Gemm's, behind a Reshape
    assert rows_of(mask, (2, 5), 2) is None  # other positions
    each = np.asarray([0.5, 3], np.float32)
    assert np.array_equal(rows_of(each, (2, 3), 2), np.repeat(each, 3))  # of samples
    assert np.array_equal(rows_of(each, (4, 2), 2), np.repeat(each, 4))
    assert rows_of(each, (3, 1), 2) is None


@pytest.mark.parametrize("wrong", [np.ones(3), -np.ones(2), np.full(2, np.nan), np.float32(1)])
def test_weights_that_cannot_be(wrong: np.ndarray) -> None:
    feed = {"x": np.zeros((2, 4), np.float32)}
    with pytest.raises(UserError, match="weights of samples and positions"):
        weights_of(lambda _: wrong)(feed)
    assert weights_of(lambda _: None)(feed) is None
