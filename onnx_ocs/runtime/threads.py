"""Independent pieces of work side by side: onnxruntime and numpy compute outside of Python's lock, so in threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["CORES", "in_order", "share", "side_by_side"]

CORES = os.cpu_count() or 1
T = TypeVar("T")
R = TypeVar("R")


def side_by_side(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """What the work makes of every item, in the order of the items.

    Raises:
        Exception: the first that the work has raised, in that order.
    """
    if len(items) < 2 or CORES < 2:
        return [work(i) for i in items]
    with ThreadPoolExecutor(min(CORES, len(items))) as pool:
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
