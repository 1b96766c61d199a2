"""An engine does every task, in whatever order workers like, and again where a worker is lost."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
import zoo
from workers import allowed, slow, square, unlucky

from onnx_ocs.errors import UserError
from onnx_ocs.execution.engine import Engine
from onnx_ocs.execution.kept import kept
from onnx_ocs.execution.processes import Processes
from onnx_ocs.model.files import fingerprint
from onnx_ocs.runtime.memory import allow_memory


class Losing(Executor):
    """Loses the worker of some tasks, so many times; notes how many are on their way at once."""

    def __init__(self, lost: dict[int, int], error: BaseException | None = None) -> None:
        self.lost, self.error = dict(lost), error or BrokenExecutor()
        self.calls: list[int] = []

    def submit(self, fn: Any, /, *args: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        task = args[-1]
        self.calls.append(task)
        if self.lost.get(task, 0) > 0:
            self.lost[task] -= 1
            future.set_exception(self.error)
        else:
            future.set_result(fn(*args))
        return future


def test_every_task_once_and_in_order() -> None:
    with ThreadPoolExecutor(3) as pool, Engine(pool) as engine:
        tasks = [(k,) for k in range(20)]
        assert sorted(engine.each(square, tasks)) == [(k, k * k) for k in range(20)]
        assert list(engine.in_order(slow, tasks)) == list(range(20))
        assert list(engine.in_order(slow, [])) == []


def test_lost_tasks_are_done_again() -> None:
    executor = Losing({2: 2, 5: 1})
    with Engine(executor, 2) as engine:
        assert list(engine.in_order(square, ((k,) for k in range(8)))) == [k * k for k in range(8)]
    assert sorted(executor.calls) == [0, 1, 2, 2, 2, 3, 4, 5, 5, 6, 7]


def test_what_dask_says_of_a_lost_worker() -> None:
    class KilledWorker(Exception):
        pass

    with Engine(Losing({1: 1}, KilledWorker())) as engine:
        assert list(engine.in_order(square, [(0,), (1,)])) == [0, 1]


def test_a_task_that_kills_its_workers() -> None:
    with Engine(Losing({2: 99})) as engine, pytest.raises(UserError, match="ended by itself at one task, 3 times"):
        list(engine.in_order(square, [(2,)]))


def test_an_executor_that_is_broken_for_good() -> None:
    class Broken(Executor):
        def submit(self, *_: Any, **__: Any) -> Any:
            raise BrokenExecutor

    with Engine(Broken()) as engine, pytest.raises(UserError, match="takes no more tasks"):
        list(engine.each(square, [(1,)]))


def test_what_a_task_raises_is_raised() -> None:
    with ThreadPoolExecutor(2) as pool, Engine(pool) as engine, pytest.raises(ZeroDivisionError, match="three"):
        list(engine.in_order(unlucky, [(k,) for k in range(9)]))


def test_tasks_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []

    def tasks() -> Any:
        for k in range(50):
            taken.append(k)
            yield (k,)

    with Engine(Losing({}), 2) as engine:
        found = engine.each(square, tasks())
        next(found)
        assert len(taken) <= 5
        found.close()  # type: ignore[attr-defined]


def test_models_are_stored_once_and_gone_at_the_end() -> None:
    model, _ = zoo.build("gemm")
    with Engine(Losing({})) as engine:
        stored = engine.store(model, fingerprint(model))
        assert engine.store(model, fingerprint(model)) is stored
        assert fingerprint(stored.load()) == stored.hash
        kept("something", lambda: 1)
    assert not stored.path.exists() and kept("something", lambda: 2) == 2


def test_workers_keep_no_more_than_is_allowed_here() -> None:
    with Processes(1) as processes, Engine(processes, 1) as engine:
        try:
            for gigabytes in (0.125, 0.25):
                allow_memory(gigabytes)
                assert list(engine.in_order(allowed, [()])) == [gigabytes * 1e9]
        finally:
            allow_memory(None)
        assert list(engine.in_order(allowed, [()])) != [0.25e9], "what is said no more does not hold"
