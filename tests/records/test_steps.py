"""Declared changes of a quantizer's step: written, read, and said to be damaged."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_ocs.records.steps import NOW, SCALE, read_step, record_step


def quantizer(**entries: str) -> onnx.NodeProto:
    n = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])
    for key, value in entries.items():
        n.metadata_props.add(key=key, value=value)
    return n


@pytest.mark.parametrize(
    ("before", "now"), [(np.asarray(0.1), np.asarray(0.3)), (np.asarray([0.1, 1 / 3]), np.asarray([1e-30, 7.0]))]
)
def test_what_is_written_is_read(before: np.ndarray, now: np.ndarray) -> None:
    """To the last bit, shapes too."""
    n = quantizer()
    record_step(n, before, now)
    step = read_step(onnx.NodeProto.FromString(n.SerializeToString()))
    assert step is not None and step.now is not None
    for got, wanted in ((step.before, before), (step.now, now)):
        assert got.dtype == np.float64 and got.shape == wanted.shape and np.array_equal(got, wanted)


def test_the_first_step_stays_the_one_before() -> None:
    n = quantizer()
    record_step(n, np.asarray(1.0), np.asarray(2.0))
    record_step(n, np.asarray(2.0), np.asarray(3.0))
    step = read_step(n)
    assert step is not None and step.now is not None and (step.before, step.now) == (1.0, 3.0)
    assert len(n.metadata_props) == 2


def test_an_older_file_does_not_say_the_step_now() -> None:
    n = quantizer(**{SCALE: "0.5"})
    step = read_step(n)
    assert step is not None and step.before == 0.5 and step.now is None
    record_step(n, np.asarray(9.0), np.asarray(0.25))
    step = read_step(n)
    assert step is not None and step.now is not None and (step.before, step.now) == (0.5, 0.25)


def test_other_entries_declare_nothing() -> None:
    assert read_step(quantizer()) is None
    assert read_step(quantizer(other="1")) is None
    assert read_step(quantizer(**{NOW: "0.5"})) is None


@pytest.mark.parametrize("text", ["", "fine", '"a"', '{"a": 1}', "[1, [2]]"])
def test_a_damaged_entry_is_said_to_be_so(text: str) -> None:
    with pytest.raises(ValueError, match="the step of 'q' is no list of numbers"):
        read_step(quantizer(**{SCALE: text}))
    with pytest.raises(ValueError, match="the step of 'q' is no list of numbers"):
        read_step(quantizer(**{SCALE: "1", NOW: text}))
