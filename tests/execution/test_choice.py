"""Words of the command line, and executors that a program has."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from workers import square

from onnx_ocs.errors import UserError
from onnx_ocs.execution.choice import check, engine
from onnx_ocs.execution.engine import Engine


@pytest.mark.parametrize("word", ["", "threads:2", "processes", "processes:0", "processes:257", "dask", "dask:here"])
def test_words_that_are_none(word: str) -> None:
    with pytest.raises(UserError, match="is not known: give processes:N"):
        check(word)


@pytest.mark.parametrize("word", ["processes:1", "processes:256", "dask:local", "dask:local:2", "dask:tcp://host:8786"])
def test_words(word: str) -> None:
    check(word)


def test_an_executor_stays_the_callers() -> None:
    with engine(None) as none:
        assert none is None
    with ThreadPoolExecutor(2) as pool:
        with engine(pool) as made:
            assert isinstance(made, Engine) and list(made.in_order(square, [(3,)])) == [9]
        assert pool.submit(square, 2).result() == 4
