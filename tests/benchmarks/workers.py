"""Calibration by one process and by workers: time, the same bytes, and what many workers would take.

    python tests/benchmarks/workers.py QUANTIZED.onnx SAMPLES.npz [--samples 256]

Every task notes its own seconds.  From these, the coordinator's seconds for each result, and the seconds until a worker
has loaded the model, a run with more workers is put together: a task goes to the worker that is free first, and results
are added one after the other.  CPU seconds are steady on a machine that others use, too: efficiency is given by both.
"""

from __future__ import annotations

import argparse
import heapq
import os
import pickle
import statistics
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import onnx

from onnx_ocs import api
from onnx_ocs.execution.processes import Processes


def timed(fn: Callable[..., Any], *args: Any) -> tuple[Any, float, float, int]:
    """A task's result, its CPU seconds, those of its process until then, and the result's size."""
    before = time.process_time()
    result = fn(*args)
    return result, time.process_time() - before, before, len(pickle.dumps(result, pickle.HIGHEST_PROTOCOL))


class Timed(Executor):
    """Another executor, whose tasks are timed."""

    def __init__(self, executor: Executor, workers: int) -> None:
        self._executor, self._max_workers = executor, workers
        self.seconds: list[float] = []
        self.started: list[float] = []
        self.sizes: list[int] = []
        self.opened = 0.0  # CPU seconds of this process when the first task was ready

    def submit(self, fn: Any, /, *args: Any, **_: Any) -> Future[Any]:
        outer: Future[Any] = Future()
        self.opened = self.opened or time.process_time()

        def done(inner: Future[Any]) -> None:
            result, seconds, before, size = inner.result()
            self.seconds.append(seconds)
            self.started.append(before)
            self.sizes.append(size)
            outer.set_result(result)

        self._executor.submit(timed, fn, *args).add_done_callback(done)
        return outer


def simulated(tasks: list[float], workers: int, start: float, load: float, merging: float) -> float:
    """Seconds that so many workers take, of which the tasks are taken in order."""
    free = [start + load] * workers
    heapq.heapify(free)
    ends = []
    for seconds in tasks:
        end = heapq.heappop(free) + seconds
        ends.append(end)
        heapq.heappush(free, end)
    at = 0.0
    for end in sorted(ends):
        at = max(at, end) + merging
    return at


def used() -> float:
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


class Run:
    """One calibration, by so many workers; 0: by this process."""

    def __init__(self, model: onnx.ModelProto, samples: str, limit: int, workers: int) -> None:
        wall, cpu = time.perf_counter(), used()
        self.times: Timed | None = None
        self.adding = 0.0
        if workers:
            with Processes(workers) as processes:
                self.times = Timed(processes, workers)
                found = api.calibrate(model, samples, limit=limit, executor=self.times)
                self.adding = time.process_time() - self.times.opened
        else:
            found = api.calibrate(model, samples, limit=limit)
        self.wall, self.cpu = time.perf_counter() - wall, used() - cpu
        self.data = found.to_bytes()


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("quantized", type=Path)
    p.add_argument("samples", type=Path)
    p.add_argument("--limit", "--samples", dest="limit", type=int, default=256)
    a = p.parse_args()
    model = onnx.load(a.quantized)
    runs = {n: Run(model, str(a.samples), a.limit, n) for n in (0, 1, 2)}
    assert len({r.data for r in runs.values()}) == 1, "the bytes differ"
    for n, r in runs.items():
        print(f"{f'processes:{n}' if n else 'this process':14} {r.wall:7.2f} s, {r.cpu:7.2f} CPU s, the same bytes")
    one, two = runs[1], runs[2]
    print(f"efficiency of 2 workers: {one.wall / (2 * two.wall):.2f} by wall, {one.cpu / two.cpu:.2f} by CPU")
    times = one.times
    assert times is not None
    tasks, usual = len(times.seconds), statistics.median(times.seconds)
    start, load, adding = times.started[0], times.seconds[0] - usual, one.adding / tasks
    print(f"{tasks} tasks of {usual:.2f} CPU s, results of {max(times.sizes):,} bytes, {adding:.2f} CPU s to add one")
    print(f"a worker imports for {start:.2f} CPU s and loads the model for {load:.2f} CPU s")
    for many in (tasks, 16 * tasks, 128 * tasks):
        alone = simulated([usual] * many, 1, start, load, adding)
        for workers in (2, 8, 64):
            took = simulated([usual] * many, workers, start, load, adding)
            gain = alone / took
            print(f"simulated: {many:5} tasks, {workers:2} workers: {took:7.1f} s, {gain:5.1f} x, {gain / workers:.2f}")


if __name__ == "__main__":
    main()
