"""Nodes that carry copies on: what is said of their output holds when they are run.

The copies of a channel are made of its integers, base = min(x, 3) and copy = max(x - 3, 0), so that they add up to it
and are monotone.  Whatever the rules say of the node's output, its rows must add up to what the original's node writes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zoo
from tiny import model, node

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.verification.carry import Carrying, join
from onnx_ocs.verification.constants import Constants
from onnx_ocs.verification.values import Differs, Sums, Wide

Array = np.ndarray[Any, Any]
GRID = Quantizer(np.asarray(1.0), np.asarray(0), None, np.dtype(np.uint8), np.dtype(np.float32), 0, 7)
ORIGIN, LEVEL = np.asarray([0, 2, 1, 2, 0]), np.asarray([0, 1, 0, 0, 1])
WIDE = Wide(1, ORIGIN, LEVEL, 3, grid=GRID)
SHAPE = (2, 3, 4, 5)


def copies(x: Array, wide: Wide) -> Array:
    rows = np.take(x, wide.origin, axis=wide.axis)
    level = wide.level.reshape(-1, *[1] * (x.ndim - 1 - wide.axis % x.ndim))
    single = np.bincount(wide.origin, minlength=wide.narrow)[wide.origin].reshape(level.shape) == 1
    return np.where(single, rows, np.where(level == 0, np.minimum(rows, 3), np.maximum(rows - 3, 0)))


def added_up(rows: Array, wide: Wide) -> Array:
    """The sum of each channel's rows."""
    rows = np.moveaxis(rows, wide.axis, 0)
    out = np.zeros((wide.narrow, *rows.shape[1:]), rows.dtype)
    np.add.at(out, wide.origin, rows)
    return np.moveaxis(out, 0, wide.axis)


Case = tuple[str, dict[str, Any], list[Any], dict[int, Any]]  # operator, attributes, constants, constants that change


def built(op: str, attributes: dict[str, Any], constants: list[Any], shape: tuple[int, ...], index: int = 0) -> Any:
    names = [f"c{k}" if c is not None else "-" for k, c in enumerate(constants)]
    names.insert(index, "x")
    values = {f"c{k}": c for k, c in enumerate(constants) if c is not None}
    opset = 18 if op in ("ReduceMean", "Pad") and constants else 13 if op != "Upsample" else 9
    return model([node(op, " ".join(names), "y", **attributes)], values, {"x": shape}, opset=opset)


def carried(case: Case, wide: Wide = WIDE, shape: tuple[int, ...] = SHAPE, index: int = 0) -> tuple[Any, Any, Wide]:
    """Both models, and what the rules say of the rewritten one's output."""
    op, attributes, constants, changes = case
    axis = wide.axis % len(shape)
    new_shape = (*shape[:axis], wide.origin.size, *shape[axis + 1 :])
    before = built(op, attributes, constants, shape, index)
    after = built(op, attributes, [changes.get(k, c) for k, c in enumerate(constants)], new_shape, index)
    rules = Carrying(Constants(Graph(before), Graph(after)), infer_shapes(before))
    return before, after, rules(after.graph.node[-1], before.graph.node[-1], index, wide)


def i64(*values: int) -> Array:
    return np.asarray(values, np.int64)


CASES: dict[str, Case] = {
    "identity": ("Identity", {}, [], {}),
    "transpose": ("Transpose", {"perm": [0, 2, 3, 1]}, [], {}),
    "transpose, reversed": ("Transpose", {}, [], {}),
    "max pool": ("MaxPool", {"kernel_shape": [2, 2]}, [], {}),
    "average pool": ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}, [], {}),
    "global pool": ("GlobalAveragePool", {}, [], {}),
    "mean": ("ReduceMean", {"axes": [2, 3]}, [], {}),
    "mean, without the axes": ("ReduceMean", {"axes": [-1, 0], "keepdims": 0}, [], {}),
    "flatten": ("Flatten", {}, [], {}),
    "unsqueeze": ("Unsqueeze", {}, [i64(0, 3)], {}),
    "reshape": ("Reshape", {}, [i64(2, 3, 20)], {0: i64(2, 5, 20)}),
    "reshape, the rest": ("Reshape", {}, [i64(2, -1, 20)], {}),
    "reshape, copied": ("Reshape", {}, [i64(0, 0, 20)], {}),
    "reshape, merged": ("Reshape", {}, [i64(2, 60)], {0: i64(2, 100)}),
    "pad": ("Pad", {}, [i64(0, 0, 1, 0, 0, 0, 0, 2), np.float32(0)], {}),
    "resize": ("Resize", {}, [None, np.asarray([1, 1, 2, 2], np.float32)], {}),
    "resize, linear": ("Resize", {"mode": "linear"}, [None, np.asarray([1, 1, 2, 2], np.float32)], {}),
    "resize to a size": ("Resize", {}, [None, None, i64(2, 3, 8, 5)], {2: i64(2, 5, 8, 5)}),
    "times": ("Mul", {}, [np.float32(0.5)], {}),
    "divided": ("Div", {}, [np.asarray([4.0], np.float32)], {}),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_said_of_the_output_holds(name: str) -> None:
    before, after, wide = carried(CASES[name])
    x = np.random.default_rng(0).integers(0, 8, SHAPE).astype(np.float32)
    want = zoo.execute(before, {"x": x})[0]
    got = zoo.execute(after, {"x": copies(x, WIDE)})[0]
    assert got.shape[wide.axis] == wide.origin.size
    np.testing.assert_allclose(added_up(got, wide), want, rtol=1e-6)
    if wide.grid is not None:  # then the rows are multiples of its step, and none is larger than its largest
        assert got.max() <= float(wide.grid.x_clip) and not np.any(got % float(wide.grid.scale))


def test_squeeze_and_a_scalar_in_front() -> None:
    _, _, wide = carried(("Squeeze", {}, [i64(2, -1)], {}), shape=(2, 3, 1, 1))
    assert wide.axis == 1
    _, _, wide = carried(("Squeeze", {}, [i64(0)], {}), shape=(1, 3, 4))
    assert wide.axis == 0
    _, _, wide = carried(("Mul", {}, [np.float32(0.25)], {}), index=1)
    assert wide.grid is not None and wide.grid.scale == 0.25


@pytest.mark.parametrize("name", ["average pool", "global pool", "mean", "resize, linear"])
def test_means_leave_the_grid(name: str) -> None:
    assert carried(CASES[name])[2].grid is None


WRONG: dict[str, tuple[Case, Wide, str]] = {
    "relu": (("Relu", {}, [], {}), WIDE, "cannot read"),
    "integers": (CASES["average pool"], replace(WIDE, integer=True), "cannot read"),
    "partial sums": (CASES["identity"], replace(WIDE, sums=Sums.each(5)), "partly added up"),
    "pool without a grid": (CASES["max pool"], replace(WIDE, grid=None), "no longer lie on one grid"),
    "pool over the channels": (CASES["max pool"], replace(WIDE, axis=2), "pools over the channels"),
    "mean over the channels": (("ReduceMean", {"axes": [1]}, [], {}), WIDE, "mean over the channels"),
    "mean over everything": (("ReduceMean", {}, [], {}), WIDE, "axes are not known"),
    "flatten elsewhere": (("Flatten", {"axis": 2}, [], {}), WIDE, "mixes the channels"),
    "reshape that splits": (("Reshape", {}, [i64(2, 30, 2)], {}), WIDE, "does not keep the channels"),
    "reshape of old sizes": (("Reshape", {}, [i64(2, 3, 20)], {}), WIDE, "does not hold"),
    "reshape of other sizes": (("Reshape", {}, [i64(2, 3, 20)], {0: i64(2, 5, 10, 2)}), WIDE, "does not hold"),
    "pad of the channels": (("Pad", {}, [i64(0, 1, 0, 0, 0, 0, 0, 0)], {}), WIDE, "pads the channels"),
    "pad with ones": (("Pad", {}, [i64(0, 0, 1, 0, 0, 0, 1, 0), np.float32(1)], {}), WIDE, "else than zeros"),
    "other pads": (
        ("Pad", {}, [i64(0, 0, 1, 0, 0, 0, 1, 0)], {0: i64(0, 0, 2, 0, 0, 0, 1, 0)}), WIDE, "does not hold",
    ),
    "resize of the channels": (
        ("Resize", {}, [None, np.asarray([1, 2, 1, 1], np.float32)], {}), WIDE, "resizes the channels",
    ),
    "times a negative": (("Mul", {}, [np.float32(-1)], {}), WIDE, "changes the sign"),
    "times a vector": (("Mul", {}, [np.ones(5, np.float32)], {}), WIDE, "with one number"),
    "times another": (("Mul", {}, [np.float32(2)], {0: np.float32(3)}), WIDE, "does not hold"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_keep_the_channels_is_found(name: str) -> None:
    case, wide, why = WRONG[name]
    with pytest.raises(Differs, match=why):
        carried(case, wide)


def test_a_number_divided_by_copies() -> None:
    with pytest.raises(Differs, match="one number"):
        carried(("Div", {}, [np.float32(1)], {}), index=1)


def test_channels_behind_each_other() -> None:
    other = Wide(1, np.asarray([1, 0, 1]), np.asarray([0, 0, 1]), 2, grid=GRID)
    found = join([WIDE, 2, other], 1)
    assert found.narrow == 7 and found.grid is GRID
    assert found.origin.tolist() == [0, 2, 1, 2, 0, 3, 4, 6, 5, 6]
    assert found.level.tolist() == [0, 1, 0, 0, 1, 0, 0, 0, 0, 1]
    finer = replace(GRID, scale=np.asarray(0.5))
    assert join([WIDE, replace(other, grid=finer)], 1).grid is None
    assert join([WIDE, replace(other, grid=None)], 1).grid is None
    for odd in (replace(other, integer=True), replace(other, halved=True)):
        with pytest.raises(Differs, match="different kinds"):
            join([WIDE, odd], 1)
