"""Pure tasks over a `concurrent.futures.Executor`: threads, processes, Dask's `Client.get_executor()`, MPI.

A task is a function of a module and its arguments.  It changes nothing, so one whose worker is lost is done again.
All that an executor is asked for is `submit(function, *arguments) -> Future`.  The bound of memory goes with each task.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar

import onnx

from onnx_ocs.errors import UserError
from onnx_ocs.execution.kept import forget
from onnx_ocs.execution.stored import Stored, store
from onnx_ocs.model.staging import scratch
from onnx_ocs.runtime.memory import allow_memory, memory_said

__all__ = ["Engine"]

AHEAD = 64  # tasks that are on their way at once, where nobody knows how many workers there are
TRIES = 3  # of one task, whose workers are lost
LOST = ("KilledWorker", "CommClosedError")  # what Dask raises when its own tries are used up
R = TypeVar("R")


class Engine:
    """Does tasks on an executor, for one run: models that tasks need are stored until it is closed."""

    def __init__(self, executor: Executor, workers: int | None = None) -> None:
        """Use an executor, which stays the caller's.

        Args:
            executor: where tasks are submitted.
            workers: how many tasks it does at once; None: as many as it says, or unknown.
        """
        known = getattr(executor, "_max_workers", None) if workers is None else workers
        self._executor = executor
        self._ahead = 2 * known if isinstance(known, int) else AHEAD
        self._stack = ExitStack()
        self._stored: dict[str, Stored] = {}

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, _type: type | None, _value: BaseException | None, _trace: TracebackType | None) -> None:
        self._stack.close()
        forget()  # threads of this process keep theirs here

    def store(self, model: onnx.ModelProto, model_hash: str) -> Stored:
        """A model as a file that the workers read; once for each hash.

        Args:
            model: the model.
            model_hash: its `fingerprint`.
        """
        if model_hash not in self._stored:
            folder = self._stack.enter_context(scratch())
            self._stored[model_hash] = store(model, model_hash, folder)
        return self._stored[model_hash]

    def each(self, work: Callable[..., R], tasks: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, R]]:
        """What the work makes of every task, each with its number, as they are done.

        Args:
            work: a function of a module.
            tasks: its arguments; only as many are taken as are on their way.

        Raises:
            UserError: a task's workers were lost again and again.
            Exception: what a task has raised.
        """
        fresh = enumerate(tasks)
        again: deque[tuple[int, tuple[Any, ...], int]] = deque()
        running: dict[Future[R], tuple[int, tuple[Any, ...], int]] = {}
        try:
            while True:
                while len(running) < self._ahead:
                    if again:
                        number, task, tries = again.popleft()
                    elif (following := next(fresh, None)) is not None:
                        number, task, tries = *following, 0
                    else:
                        break
                    running[self._submit(work, task)] = number, task, tries + 1
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    number, task, tries = running.pop(future)
                    if (error := _error(future)) is None:
                        yield number, future.result()
                    elif not _lost(error):
                        raise error
                    elif tries == TRIES:
                        raise _gone(f"at one task, {tries} times") from None
                    else:
                        again.append((number, task, tries))
        finally:
            for future in running:
                future.cancel()

    def in_order(self, work: Callable[..., R], tasks: Iterable[tuple[Any, ...]]) -> Iterator[R]:
        """The same in the order of the tasks, so that floats are added in that order whoever was first."""
        early: dict[int, R] = {}
        wanted = 0
        for number, result in self.each(work, tasks):
            early[number] = result
            while wanted in early:
                yield early.pop(wanted)
                wanted += 1

    def _submit(self, work: Callable[..., R], task: tuple[Any, ...]) -> Future[R]:
        try:
            return self._executor.submit(_within, memory_said(), work, *task)
        except BrokenExecutor:
            raise _gone("and the executor takes no more tasks") from None


def _within(gigabytes: float | None, work: Callable[..., R], *task: Any) -> R:
    """Do a task where no more memory is kept than the user allows, also in another process."""
    if memory_said() != gigabytes:
        allow_memory(gigabytes)
    return work(*task)


def _error(future: Future[Any]) -> BaseException | None:
    """What a future that is done has raised."""
    return CancelledError() if future.cancelled() else future.exception()


def _lost(error: BaseException) -> bool:
    """Whether it is the worker that failed, and not the task."""
    return isinstance(error, BrokenExecutor | CancelledError) or type(error).__name__ in LOST


def _gone(how: str) -> UserError:
    return UserError(f"a worker ended by itself {how} (out of memory?): use fewer workers, or machines with more")
