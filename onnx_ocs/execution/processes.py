"""Processes of this machine as an executor: one that is killed costs its task alone.

The standard library's pool ends as a whole with any of its processes.  So each process here is a pool of one.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import connection, resource_tracker
from typing import Any, ParamSpec, TypeVar

__all__ = ["Processes", "no_interrupts"]

P = ParamSpec("P")
R = TypeVar("R")


class Processes(Executor):
    """Spawned processes, each with one task at a time, started when there is a task for them.

    A script that uses it must keep its own work under `if __name__ == "__main__":`.
    """

    def __init__(self, workers: int) -> None:
        """Start nothing yet.

        Args:
            workers: most processes.
        """
        self._max_workers = workers
        self._pools: list[ProcessPoolExecutor] = []
        self._idle: list[ProcessPoolExecutor] = []
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._lock = threading.RLock()
        self._closed = False

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Call the function in one of the processes.

        Raises:
            RuntimeError: it is shut down.
        """
        outer: Future[R] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._waiting.append((outer, partial(fn, *args, **kwargs)))
            self._start()
        return outer

    def _start(self) -> None:
        """Give what waits to who is idle."""
        while self._waiting and (self._idle or len(self._pools) < self._max_workers) and not self._closed:
            outer, work = self._waiting.popleft()
            if not outer.set_running_or_notify_cancel():
                continue
            pool = self._idle.pop() if self._idle else self._new()
            try:
                with no_interrupts():  # inherited: Ctrl-C is for this process alone, which ends the others
                    inner = pool.submit(work)
            except BrokenExecutor as e:  # it was killed while it was idle
                self._pools.remove(pool)
                outer.set_exception(e)
                continue
            inner.add_done_callback(partial(self._done, pool, outer))

    def _new(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # a fork would copy onnxruntime's locked thread pools
        self._pools.append(ProcessPoolExecutor(1, context, _begin))
        return self._pools[-1]

    def _done(self, pool: ProcessPoolExecutor, outer: Future[Any], inner: Future[Any]) -> None:
        error = BrokenExecutor("it was shut down") if inner.cancelled() else inner.exception()
        with self._lock:
            if isinstance(error, BrokenExecutor):
                self._pools.remove(pool)  # its threads end by themselves
            else:
                self._idle.append(pool)
            self._start()
        if error is None:
            outer.set_result(inner.result())
        else:
            outer.set_exception(error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes: what they are at is lost, since nobody asks for it any more."""
        with self._lock:
            self._closed = True
            pools, waiting = list(self._pools), list(self._waiting)
            self._waiting.clear()
        for outer, _ in waiting:
            outer.cancel()
        for pool in pools:
            for process in list((pool._processes or {}).values()):
                process.terminate()
        for pool in pools:
            pool.shutdown(wait, cancel_futures=True)


def _begin() -> None:
    """What a worker does first: it is quiet, and ends with its coordinator.

    What it would warn of, the coordinator has said already: it has opened the same model and samples.
    """
    logging.getLogger("onnx_ocs").addHandler(logging.NullHandler())
    coordinator = multiprocessing.parent_process()
    if coordinator is not None:
        threading.Thread(target=_end_with, args=(coordinator.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """Who is killed cannot end its workers."""
    connection.wait([sentinel])
    os._exit(1)


@contextmanager
def no_interrupts() -> Iterator[None]:
    """Ctrl-C waits until this is over; processes started meanwhile never see it."""
    if sys.platform == "win32":
        if threading.current_thread() is not threading.main_thread():  # only that one may
            yield
            return
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
        return
    resource_tracker.ensure_running()  # starting it would end what follows
    came: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if main else None
    if handler is not None:  # another thread may still receive it, and this one would be interrupted
        signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which new processes inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)
