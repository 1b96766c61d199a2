"""What a reader of the report would see as a gain."""

from __future__ import annotations

from dataclasses import replace

from onnx_ocs.measurement.channels import Group
from onnx_ocs.measurement.gain import gains
from onnx_ocs.measurement.outputs import OutputQuality
from onnx_ocs.measurement.quality import Quality

OUT = OutputQuality("y", "values", 20.0)


def better(before: OutputQuality, after: OutputQuality) -> bool:
    return gains(Quality(0.0, None, 1, (OUT, before)), Quality(0.0, None, 1, (OUT, after)))


def test_decibels_that_show() -> None:
    assert better(OUT, replace(OUT, sqnr_db=20.01)) and better(OUT, replace(OUT, sqnr_db=None))
    for same in (20.004, 20.0, 15.0):
        assert not better(OUT, replace(OUT, sqnr_db=same))
    exact = replace(OUT, sqnr_db=None)
    assert not better(exact, exact) and not better(exact, OUT)


def test_answers_groups_and_channels_that_live_again() -> None:
    scores = replace(OUT, kind="scores", agreement=0.9)
    assert better(scores, replace(scores, agreement=0.91)) and not better(scores, scores)
    groups = replace(OUT, groups=(Group((0,), 5.0), Group((1,), 9.0)))
    assert better(groups, replace(groups, groups=(Group((0,), 5.1), Group((1,), 8.0))))
    assert better(replace(OUT, constant_channels=(3, 4)), replace(OUT, constant_channels=(3,)))
