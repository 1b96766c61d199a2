"""Dask's clusters as executors (extra: dask)."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

from onnx_ocs.errors import UserError, first_line

__all__ = ["cluster"]

PATIENCE = "10s"  # for a scheduler to answer
START = 300  # seconds for the first worker to start


@contextmanager
def cluster(address: str | None, workers: int | None) -> Iterator[tuple[Executor, int]]:
    """A client's executor, and how many tasks it does at once.

    Args:
        address: of a scheduler, "tcp://HOST:PORT"; None starts workers on this machine, one thread each.
        workers: how many are started; None: one for each core.

    Raises:
        UserError: Dask is not installed, or nobody answers there.
    """
    try:
        import distributed
    except ImportError:
        raise UserError("--executor dask:... needs Dask: pip install 'onnx-ocs[dask]'") from None
    dask: Any = distributed  # its functions have no types
    quiet = logging.CRITICAL
    if address is None:
        count = workers or os.cpu_count() or 1
        options = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": quiet, "memory_limit": 0}
        made = dask.LocalCluster(count, **options)
        with made, dask.Client(made) as client:
            try:  # on a busy machine some start late, or never: who is there begins
                client.wait_for_workers(1, START)
            except TimeoutError:
                raise UserError("no worker of Dask's local cluster has started: give fewer workers") from None
            yield client.get_executor(), count
        return
    try:
        client = dask.Client(address, timeout=PATIENCE)
    except (OSError, TimeoutError) as e:
        raise UserError(f"no Dask scheduler answers at {address}: {first_line(e)}") from None
    with client:
        yield client.get_executor(), max(1, sum(client.nthreads().values()))
