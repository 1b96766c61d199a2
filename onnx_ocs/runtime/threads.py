"""Independent pieces of work side by side: onnxruntime and numpy compute outside of Python's lock, so in threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

__all__ = ["CORES", "TOGETHER", "in_order", "share", "side_by_side", "slices"]

CORES = os.cpu_count() or 1
# samples of a run: what layers leave behind stays in the caches; of one alone, onnxruntime multiplies vectors, and adds
# up in another order
TOGETHER = 2
T = TypeVar("T")
R = TypeVar("R")


def side_by_side(work: Callable[[T], R], items: Sequence[T], most: int | None = None) -> list[R]:
    """What the work makes of every item, in the order of the items.

    Args:
        work: makes it.
        items: the items.
        most: threads at most; None: one for each core.

    Raises:
        Exception: the first that the work has raised, in that order.
    """
    threads = min(CORES if most is None else most, len(items))
    if threads < 2:
        return [work(i) for i in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


def in_order(work: Callable[[T], R], items: Iterable[T], at_once: int) -> Iterator[R]:
    """The same for items that come one by one, of which only so many are worked on, and one more waits."""
    with ThreadPoolExecutor(at_once) as pool:
        running: deque[Future[R]] = deque()
        for i in items:
            running.append(pool.submit(work, i))
            if len(running) > at_once:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def share(at_once: int) -> int:
    """How many threads each of so many runs may have, for all of them to keep the cores busy."""
    return -(-CORES // at_once)


def slices(samples: int) -> list[slice]:
    """So many samples, `TOGETHER` at a time; the last slice has up to 2 * `TOGETHER` - 1 of them."""
    ends = range(TOGETHER, samples - TOGETHER + 1, TOGETHER)
    return [slice(begin, end) for begin, end in pairwise((0, *ends, samples))]
