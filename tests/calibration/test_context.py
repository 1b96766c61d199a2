"""What passes may use besides the model."""

from __future__ import annotations

import pytest
import zoo

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import open_samples


@pytest.mark.parametrize(("limit", "expected"), [(None, 3), (2, 2), (3, 3), (100, 3)])
def test_as_many_samples_as_there_are_and_no_more_than_allowed(limit: int | None, expected: int) -> None:
    model, feed = zoo.build("residual")
    assert len(feed["x"]) == 3
    assert Context(open_samples(feed, model), limit).total() == expected


def test_without_samples_there_are_none() -> None:
    assert Context().total() == 0 and Context(limit=5).total() == 0


def test_progress_may_be_told_to_nobody() -> None:
    Context().progress("calibrating", 1, None)
    said: list[object] = []
    Context(progress=lambda *args: said.append(args)).progress("calibrating", 1, 2)
    assert said == [("calibrating", 1, 2)]


def test_it_is_not_changed_but_replaced() -> None:
    context = Context()
    with pytest.raises(AttributeError):
        context.seed = 1  # type: ignore[misc]
    assert context.seed == 0 and not context.again
