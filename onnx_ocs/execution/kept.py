"""What a worker keeps from task to task: loaded models and open samples, by what they are."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = ["forget", "kept", "lent"]

MOST = 4  # things at once: a run asks of few models
T = TypeVar("T")

_things: OrderedDict[Hashable, Any] = OrderedDict()
_lock = threading.RLock()


def kept(key: Hashable, make: Callable[[], T]) -> T:
    """What was made for the key before, or is made now; what was asked for longest ago goes first.

    Args:
        key: all that the thing depends on.
        make: makes it; threads that ask for the same wait.
    """
    with _lock:
        if key not in _things:
            _things[key] = make()
            while len(_things) > MOST:
                _things.popitem(last=False)
        _things.move_to_end(key)
        found: T = _things[key]
        return found


@contextmanager
def lent(key: Hashable, make: Callable[[], T]) -> Iterator[T]:
    """The same for a thing that one thread uses at a time: there are as many as threads ask at once.

    One whose user fails is not kept.
    """
    idle: list[T] = kept(key, list)
    try:
        thing = idle.pop()
    except IndexError:
        thing = make()
    yield thing
    idle.append(thing)


def forget() -> None:
    """Keep nothing any more."""
    with _lock:
        _things.clear()
