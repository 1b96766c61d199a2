"""Calibration and the planner's questions by one process and by workers: time, the same bytes, and many workers.

    python tests/benchmarks/workers.py QUANTIZED.onnx SAMPLES.npz [--samples 256] [--float FLOAT.onnx]
        [--what calibration|questions|plan]

Every task notes its own seconds.  From these, the coordinator's seconds for each result, and the seconds until a worker
has loaded the model, a run with more workers is put together: a task goes to the worker that is free first, and results
are added one after the other.  Questions are asked in rounds, which wait for each other: what a worker loads counts in
the first round, and the coordinator's seconds as if nobody worked meanwhile.  CPU seconds are steady on a machine that
others use, too: efficiency is given by both.
"""

from __future__ import annotations

import argparse
import heapq
import os
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import onnx

from onnx_ocs import api
from onnx_ocs.execution.processes import Processes
from onnx_ocs.planning.options import PlanOptions


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
        self.rounds: list[list[float]] = []  # the seconds of tasks that did not wait for each other
        self._running = 0

    def submit(self, fn: Any, /, *args: Any, **_: Any) -> Future[Any]:
        outer: Future[Any] = Future()
        self.opened = self.opened or time.process_time()
        if not self._running:
            self.rounds.append([])
        self._running += 1
        mine = self.rounds[-1]

        def done(inner: Future[Any]) -> None:
            result, seconds, before, size = inner.result()
            mine.append(seconds)
            self._running -= 1
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
    """One calibration or plan, by so many workers; 0: by this process."""

    def __init__(self, work: Callable[[Executor | None], bytes], workers: int) -> None:
        wall, cpu, own = time.perf_counter(), used(), time.process_time()
        self.times: Timed | None = None
        self.adding = 0.0
        if workers:
            with Processes(workers) as processes:
                self.times = Timed(processes, workers)
                self.data = work(self.times)
                self.adding = time.process_time() - self.times.opened
        else:
            self.data = work(None)
        self.wall, self.cpu, self.own = time.perf_counter() - wall, used() - cpu, time.process_time() - own


def questions(one: Run) -> None:
    """What a plan takes with more workers."""
    times = one.times
    assert times is not None
    rounds = [r for r in times.rounds if r]
    start, load = times.started[0], times.seconds[0] - statistics.median(rounds[0])
    rounds[0][0] -= load
    tasks = sum(map(len, rounds))
    asked = sum(map(sum, rounds))
    print(f"{tasks} tasks in {len(rounds)} rounds, {asked:.1f} CPU s; {one.own:.1f} CPU s of the coordinator")
    print(f"a worker imports for {start:.2f} CPU s and loads models for {load:.2f} CPU s")
    alone = start + load + asked
    for workers in (2, 8, 64):
        took = sum(simulated(r, workers, 0.0, 0.0, 0.0) for r in rounds) + start + load
        gain, whole = alone / took, (alone + one.own) / (took + one.own)
        print(f"simulated: {workers:2} workers: {took:5.1f} s, {gain:.1f} x; with the coordinator's work {whole:.1f} x")


def calibration(model: onnx.ModelProto, samples: str, limit: int) -> Callable[[Executor | None], bytes]:
    return lambda executor: api.calibrate(model, samples, limit=limit, executor=executor).to_bytes()


def plan(model: onnx.ModelProto, floats: onnx.ModelProto | None, samples: str, limit: int, stats: Path | None) -> Any:
    """A plan, from statistics that are there already, or with its own calibration."""
    options = PlanOptions(budget=0.1, stats=stats)
    return lambda e: api.plan(model, samples, options, floats, limit=limit, executor=e)[0].to_json().encode()


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("quantized", type=Path)
    p.add_argument("samples", type=Path)
    p.add_argument("--float", type=Path)
    p.add_argument("--what", choices=("calibration", "questions", "plan"), default="calibration")
    p.add_argument("--limit", "--samples", dest="limit", type=int, default=256)
    a = p.parse_args()
    model, samples = onnx.load(a.quantized), str(a.samples)
    floats = None if a.float is None else onnx.load(a.float)
    with tempfile.TemporaryDirectory() as folder:
        stats = Path(folder) / "stats.npz" if a.what == "questions" else None
        if stats is not None:  # the same for all runs
            with Processes(2) as processes:
                plan(model, floats, samples, a.limit, stats)(processes)
        calibrates = a.what == "calibration"
        work = calibration(model, samples, a.limit) if calibrates else plan(model, floats, samples, a.limit, stats)
        runs = {n: Run(work, n) for n in (0, 1, 2)}
    assert len({r.data for r in runs.values()}) == 1, "the bytes differ"
    for n, r in runs.items():
        print(f"{f'processes:{n}' if n else 'this process':14} {r.wall:7.2f} s, {r.cpu:7.2f} CPU s, the same bytes")
    one, two = runs[1], runs[2]
    print(f"efficiency of 2 workers: {one.wall / (2 * two.wall):.2f} by wall, {one.cpu / two.cpu:.2f} by CPU")
    if not calibrates:
        questions(one)
        return
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
