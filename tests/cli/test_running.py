"""Who computes: two spellings, one meaning."""

from __future__ import annotations

import pytest

from onnx_ocs.cli.running import Running
from onnx_ocs.errors import UserError


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (Running(), None),
        (Running(jobs=1), None),
        (Running(jobs=3), "processes:3"),
        (Running(executor="processes:1"), "processes:1"),
        (Running(executor="dask:local"), "dask:local"),
    ],
)
def test_choices(given: Running, wanted: str | None) -> None:
    assert given.choice("c.npz") == wanted


@pytest.mark.parametrize(
    ("given", "calib", "message"),
    [
        (Running("processes:2", 2), "c.npz", "--executor and --jobs both say"),
        (Running(jobs=2), None, "--jobs needs --calib"),
        (Running("processes:2"), None, "--executor needs --calib"),
        (Running("processes:x"), "c.npz", "the executor 'processes:x' is not known"),
    ],
)
def test_mistakes(given: Running, calib: str | None, message: str) -> None:
    with pytest.raises(UserError) as error:
        given.choice(calib)
    assert str(error.value).startswith(message)
