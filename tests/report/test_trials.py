"""What was tried: which candidates no other beats, and the rows of the table."""

from __future__ import annotations

from tried import entry

from onnx_ocs.report.trials import front, trial_in_short, trial_rows


def test_the_front() -> None:
    assert front([(1.0, 0.0), (1.0, 5.0), (1.1, 4.0), (1.2, 6.0)]) == [False, True, False, True]
    assert front([(1.0, 1.0), (1.0, 1.0)]) == [True, False], "of equals the first"
    assert front([]) == []


def test_rows() -> None:
    tried = [entry("as it is", 0.0, 1.0, "kept"), entry("steps", 1.5, None, "chosen"), entry("copies", 1.25, 1.3)]
    columns, rows = trial_rows({"tried": tried})
    assert columns == ("tried", "SQNR", "gain", "MACs", "latency", ""), "no output has an answer"
    assert rows[0] == (("as it is", "10.00 dB", "+0.00 dB", "x 1.00", "x 1.00", "kept"), "kept")
    assert rows[1] == (("steps", "11.50 dB", "+1.50 dB", "x 1.00", "", "chosen"), "chosen")
    assert rows[2][0][-1] == "left: w"
    assert trial_in_short(tried[2]) == "+1.25 dB, x 1.30, left"


def test_the_user_s_metric_takes_the_place_of_the_gain() -> None:
    columns, rows = trial_rows({"tried": [entry("steps", 1.5, 1.0, "chosen", metric=0.75, agreement=0.5)]})
    assert columns[:4] == ("tried", "SQNR", "same answer", "metric")
    assert rows[0][0][2:4] == ("50.00 %", "0.75")
