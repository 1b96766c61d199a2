"""Which executor: one that a program has, or a word of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from onnx_ocs.errors import UserError
from onnx_ocs.execution.clusters import cluster
from onnx_ocs.execution.engine import Engine
from onnx_ocs.execution.processes import Processes

__all__ = ["Choice", "check", "engine"]

Choice = Executor | str | None
MOST = 256  # processes of one machine
WORDS = re.compile(r"processes:(?P<processes>\d+)|dask:local(?::(?P<local>\d+))?|dask:(?P<address>\w+://\S+)")


def check(choice: str) -> re.Match[str]:
    """Read a word of the command line.

    Raises:
        UserError: it is none.
    """
    found = WORDS.fullmatch(choice)
    numbers = [n for n in (found["processes"], found["local"]) if n is not None] if found else []
    if found is None or not all(1 <= int(n) <= MOST for n in numbers):
        raise UserError(
            f"the executor '{choice}' is not known: give processes:N (1 to {MOST}), dask:local, dask:local:N or "
            "dask:tcp://HOST:PORT"
        )
    return found


@contextmanager
def engine(choice: Choice) -> Iterator[Engine | None]:
    """The engine for as long as it is needed; None: everything is done by this process.

    Args:
        choice: an executor, which stays the caller's; or "processes:N", "dask:local[:N]", "dask:tcp://HOST:PORT".

    Raises:
        UserError: there is no such executor, or what it needs is missing.
    """
    if choice is None:
        yield None
    elif isinstance(choice, Executor):
        with Engine(choice) as made:
            yield made
    else:
        said = check(choice)
        if said["processes"]:
            workers = int(said["processes"])
            with Processes(workers) as processes, Engine(processes, workers) as made:
                yield made
        else:
            count = int(said["local"]) if said["local"] else None
            with cluster(said["address"], count) as (executor, workers), Engine(executor, workers) as made:
                yield made
