"""Names that nothing has yet."""

from __future__ import annotations

from onnx_ocs.model.names import Names


def test_a_name_is_given_once() -> None:
    names = Names(["x", "x_2"], ("y",))
    assert [names.fresh("x") for _ in range(3)] == ["x_1", "x_3", "x_4"]
    assert [names.fresh("z"), names.fresh("z")] == ["z", "z_1"]


def test_names_that_come_later_are_taken_too() -> None:
    names = Names()
    names.update(["a"], ["b", "b_1"])
    assert (names.fresh("a"), names.fresh("b")) == ("a_1", "b_2")
