"""Samples of other sizes: which dimensions are varied, and with what."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnx_ocs.verification.feeds import resized


def model(**shapes: list[int | str | None]) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(k, 1, s) for k, s in shapes.items()]
    return helper.make_model(helper.make_graph([], "g", inputs, []))


def samples(count: int, **shapes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Samples whose values tell which one they are of."""
    return [{k: np.full(s, n, np.float32) for k, s in shapes.items()} for n in range(count)]


def shapes(m: onnx.ModelProto, given: list[dict[str, Any]], few: bool = False) -> list[tuple[dict[str, Any], bool]]:
    return [({k: v.shape for k, v in feed.items()}, batch) for feed, batch in resized(m, given, few)]


def test_batches_of_two_and_three_come_from_the_samples() -> None:
    feeds = [*resized(model(x=["N", 3]), samples(4, x=(1, 3)))]
    assert [batch for _, batch in feeds] == [True, True]
    assert [f["x"][:, 0].tolist() for f, _ in feeds] == [[1, 2], [1, 2, 3]]
    alone = [*resized(model(x=["N", 3]), samples(1, x=(1, 3)))]
    assert [f["x"].shape for f, _ in alone] == [(2, 3), (3, 3)]
    assert shapes(model(x=["N", 3]), samples(2, x=(1, 3)), few=True) == [({"x": (2, 3)}, True)]


def test_fixed_dimensions_stay() -> None:
    assert shapes(model(x=[1, 3]), samples(2, x=(1, 3))) == []


def test_samples_of_different_sizes_are_not_mixed() -> None:
    given = [{"x": np.zeros((1, 3), np.float32)}, {"x": np.ones((1, 5), np.float32)}]
    feeds = [f["x"] for f, batch in resized(model(x=["N", None]), given) if batch]
    assert [f.shape for f in feeds] == [(2, 5), (3, 5)]


def test_other_dimensions_are_doubled_by_repeating() -> None:
    given = [{"x": np.arange(6, dtype=np.float32).reshape(1, 2, 3)}]
    (feed, batch), *more = resized(model(x=[1, 2, "T"]), given)
    assert not batch and not more
    np.testing.assert_array_equal(feed["x"], [[[0, 1, 2, 0, 1, 2], [3, 4, 5, 3, 4, 5]]])


def test_one_name_is_one_dimension() -> None:
    m = model(x=["N", "T"], y=["N", "T", "U"])
    found = shapes(m, samples(3, x=(1, 4), y=(1, 4, 2)))
    assert found == [
        ({"x": (2, 4), "y": (2, 4, 2)}, True),
        ({"x": (3, 4), "y": (3, 4, 2)}, True),
        ({"x": (1, 8), "y": (1, 8, 2)}, False),
        ({"x": (1, 4), "y": (1, 4, 4)}, False),
    ]


def test_inputs_that_no_sample_has_are_left_out() -> None:
    assert shapes(model(x=["N", 3], y=["M", 3]), samples(2, x=(1, 3))) == [({"x": (2, 3)}, True), ({"x": (3, 3)}, True)]


def test_large_samples_and_many_dimensions_are_left_alone() -> None:
    large = samples(1, x=(1, 1 << 17))
    assert shapes(model(x=[1, "T"]), large) == []
    names = [f"d{k}" for k in range(6)]
    assert len(shapes(model(x=[1, *names]), samples(1, x=(1,) * 7))) == 4
