"""Calibration: the statistics of every candidate tensor, counted in one process or in several.

One process reads the samples and runs nothing else when there are workers: each asks for the next batch when it is
free, so user code (`module:function`) is called in one place, and memory does not grow with the samples.  Counts are
integers over ranges that are powers of two, so their sum does not depend on who counted what.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import onnx

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.feed import samples_in
from onnx_ocs.calibration.statistics import Statistics
from onnx_ocs.calibration.stream import BATCH, Activations, stream
from onnx_ocs.errors import UserError
from onnx_ocs.model.files import load_model, save_model
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.model.staging import scratch
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Quantized
from onnx_ocs.regions.relu6 import Bounded

__all__ = ["calibrate"]

_LOG = logging.getLogger("onnx_ocs.calibration")
Counted = tuple[Collection[int], bool]  # `steps` and `apart` of the statistics


def calibrate(
    model: onnx.ModelProto,
    regions: Sequence[Quantized],
    context: Context,
    model_hash: str,
    jobs: int = 1,
    steps: Collection[int] = (),
    apart: bool = False,
) -> Statistics:
    """One streaming pass over the samples; the result does not depend on the number of processes.

    Args:
        model: the QDQ model.
        regions: all its regions.
        context: the samples, and whom to tell about progress.
        model_hash: what the statistics are tied to.
        jobs: processes that count.
        steps: indices of regions that no layer with a weight reads and that are counted all the same.
        apart: whether these are counted by channel, where they could get copies.

    Raises:
        UserError: the model does not run on the samples, or a process was killed.
    """
    statistics = Statistics(model_hash, regions, steps, apart)
    if context.samples is None or not statistics.regions:
        return statistics
    jobs = min(jobs, -(-context.total() // BATCH))
    if jobs > 1:
        _count_in_processes(model, context, statistics, (steps, apart), jobs)
        return statistics
    wanted = [regions[k] for k in statistics.regions]
    for turn, batch in enumerate(stream(model, regions, wanted, context)):
        statistics.add(regions, batch, turn)
    return statistics


def _count_in_processes(
    model: onnx.ModelProto, context: Context, statistics: Statistics, counted: Counted, jobs: int
) -> None:
    assert context.samples is not None
    total, done = context.total(), 0
    with scratch() as folder:
        path = folder / "model.onnx"
        save_model(model, path)
        with _workers((path, statistics.model_hash, counted, dict(context.bounded)), jobs) as busy:
            batches = enumerate(context.samples.batches(BATCH, context.limit))
            ahead = next(batches, None)  # read while the workers count
            while busy:
                for connection in wait(list(busy)):
                    assert isinstance(connection, Connection)
                    answer = _receive(connection, busy[connection])
                    if isinstance(answer, Statistics):
                        statistics.merge(answer)
                        del busy[connection]
                        continue
                    done += answer
                    _LOG.debug("calibrated on %d of %d samples", done, total)
                    context.progress("calibrating", min(done, total), total)
                    with _reaching(busy[connection]):
                        connection.send(ahead)
                    ahead = ahead and next(batches, None)
    context.progress("calibrating", total, total)
    _LOG.info("calibrated %d tensors on %d samples in %d processes", len(statistics.regions), done, jobs)


def _receive(connection: Connection, process: Any) -> Any:
    """What a worker says; raises what it raised."""
    with _reaching(process):
        answer = connection.recv()
    if isinstance(answer, BaseException):
        raise answer
    return answer


@contextmanager
def _reaching(process: Any) -> Iterator[None]:
    """Says so where the process at the other side has gone, whether it is asked or told."""
    try:
        yield
    except (EOFError, OSError):
        process.join(5)
        raise UserError(
            f"a calibration process ended by itself (exit code {process.exitcode}; out of memory?): use fewer --jobs"
        ) from None


@contextmanager
def _workers(task: tuple[Path, str, Counted, Bounded], jobs: int) -> Iterator[dict[Connection, Any]]:
    """Processes by their connections; none is left when this is over, whatever happens."""
    context = multiprocessing.get_context("spawn")  # a fork would copy onnxruntime's locked thread pools
    threads = max(1, (os.cpu_count() or 1) // jobs)
    started: dict[Connection, Any] = {}
    try:
        with _no_interrupts():  # inherited: Ctrl-C is for this process alone, which ends the others
            for _ in range(jobs):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, *task, threads), daemon=True)
                process.start()
                theirs.close()
                started[ours] = process
        yield dict(started)
    finally:
        for connection, process in started.items():
            connection.close()
            process.terminate()
            process.join()


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Ctrl-C waits until this is over; processes started meanwhile never see it."""
    if threading.current_thread() is not threading.main_thread():  # only that one may
        yield
    elif sys.platform == "win32":
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
    else:
        resource_tracker.ensure_running()  # starting it would end what follows
        came: list[int] = []
        before = signal.getsignal(signal.SIGINT)
        if before is not None:  # another thread may still receive it, and this one would be interrupted
            signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which new processes inherit
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            if before is not None:
                signal.signal(signal.SIGINT, before)
            if came:
                signal.raise_signal(signal.SIGINT)


def _work(
    connection: Connection, path: Path, model_hash: str, counted: Counted, bounded: Bounded, threads: int
) -> None:
    """A worker: says how many samples it has counted, is given the next batch, and at last its statistics are taken."""
    try:
        model = load_model(path)
        regions = find_regions(Graph(model), infer_shapes(model), bounded=bounded)
        statistics = Statistics(model_hash, regions, *counted)
        activations = Activations(model, regions, [regions[k] for k in statistics.regions], threads)
        connection.send(0)
        while (task := connection.recv()) is not None:
            turn, feed = task
            statistics.add(regions, activations(feed), turn)
            connection.send(samples_in(feed))
        connection.send(statistics)
        connection.close()
    except (EOFError, OSError):  # the other side has gone
        return
    except Exception as e:  # whatever it is, it is to be raised over there
        connection.send(e if isinstance(e, UserError) else RuntimeError(f"in a calibration process: {e!r}"))
