"""What counts of the outputs: what the user says is checked against what the model has."""

from __future__ import annotations

import pytest

from onnx_ocs.calibration.judging import EVERYTHING, Judging
from onnx_ocs.errors import UserError

NAMES = ("boxes", "scores", "masks")


def test_every_output_counts_one_unless_it_is_said() -> None:
    EVERYTHING.check(NAMES)
    assert [EVERYTHING.weight(n) for n in NAMES] == [1, 1, 1]
    some = Judging({"boxes": 2.5}, ("masks",))
    some.check(NAMES)
    assert [some.weight(n) for n in NAMES] == [2.5, 1, 0]


@pytest.mark.parametrize(
    ("judging", "message"),
    [
        (Judging({"bokses": 1.0}), "no output 'bokses': 'boxes' perhaps[?] it has 'boxes', 'scores', 'masks'"),
        (Judging({}, ("y",)), "no output 'y': it has 'boxes', 'scores', 'masks'"),
        (Judging({"boxes": 0.0}), "weight of the output 'boxes' is 0.0"),
        (Judging({"boxes": float("nan")}), "weight of the output 'boxes' is nan"),
        (Judging({"boxes": 1.0}, ("boxes",)), "'boxes' is weighed and excluded"),
        (Judging({}, NAMES), "all outputs are excluded"),
    ],
)
def test_mistakes(judging: Judging, message: str) -> None:
    with pytest.raises(UserError, match=message):
        judging.check(NAMES)
