"""How much memory a run may take for what it keeps: what the user says, else half of what is free, at most 0.5 GB.

A container's limits are respected.  What is kept, and what waits in files, follows it; no result does.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "allow_memory", "few_heaps", "free_memory", "give_back", "memory", "memory_said", "no_cycles", "share_of_memory",
]  # fmt: skip

GIGABYTE = 10**9
UNKNOWN = 4 * GIGABYTE  # where the system does not say
HEAPS, ARENA_MAX = 2, -8  # and the GNU C library's M_ARENA_MAX
USUAL = GIGABYTE // 2  # more helps little
INFO = Path("/proc/meminfo")
GROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


class _Bound:
    """The one of this process."""

    said: float | None = None
    bytes: int | None = None


def allow_memory(gigabytes: float | None) -> None:
    """Set the bound of this process.

    Args:
        gigabytes: most memory, in 10^9 bytes; None for half of what is free when it is next asked for, at most 0.5.
    """
    _Bound.said = gigabytes
    _Bound.bytes = None if gigabytes is None else int(gigabytes * GIGABYTE)


def memory_said() -> float | None:
    """The bound that was set, in 10^9 bytes; None where the machine decides."""
    return _Bound.said


def memory() -> int:
    """Bytes that a run may take."""
    if _Bound.bytes is None:
        _Bound.bytes = min(free_memory() // 2, USUAL)
    return _Bound.bytes


def share_of_memory(parts: int) -> int:
    """Bytes that one of so many parts of a run may take."""
    return memory() // parts


def give_back() -> None:
    """Give back to the system what the C library keeps of freed memory: a next stage asks for blocks of other sizes.

    Where the library has no such call, it keeps it.
    """
    if _TRIM is not None:
        _TRIM(0)


def few_heaps() -> None:
    """Let the threads of this process share two heaps: the C library gives each its own, and holes are left in all.

    For a program of ours, before it starts threads.  Where the user says how many (`MALLOC_ARENA_MAX`), that holds.
    """
    if _MALLOPT is not None and "MALLOC_ARENA_MAX" not in os.environ:
        _MALLOPT(ARENA_MAX, HEAPS)


@contextmanager
def no_cycles() -> Iterator[None]:
    """Do not look for cycles of dead objects meanwhile: work on graphs makes many objects, and none of these.

    The collector would look at all nodes of a large graph again and again, a tenth of the time.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _of_library(name: str) -> Callable[..., int] | None:
    """A function of the GNU C library."""
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # another library, or another system
        return None
    return found


_TRIM, _MALLOPT = _of_library("malloc_trim"), _of_library("mallopt")


def free_memory() -> int:
    """Bytes that are free for this process: of the machine, and of the container that it runs in."""
    return max(min(_of_machine(), _of_container()), 0)


def _of_machine() -> int:
    for line in _lines(INFO):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return UNKNOWN


def _of_container() -> int:
    """What the control groups leave, from this process's own one up to the root (version 2, else version 1)."""
    found = [1 << 62]
    for line in _lines(OWN):
        _, controllers, path = line.strip().split(":", 2)
        if controllers == "":
            folder, most, used = GROUPS / path.lstrip("/"), "memory.max", "memory.current"
        elif controllers == "memory":
            folder = GROUPS / "memory" / path.lstrip("/")
            most, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        for place in (folder, *folder.parents):
            if place == GROUPS.parent:
                break
            limit, now = _number(place / most), _number(place / used)
            if limit is not None and now is not None:
                found.append(limit - now + _cached(place / "memory.stat"))
    return min(found)


def _cached(path: Path) -> int:
    """Bytes of files that a control group holds, and gives back when they are needed."""
    lines = (line.split() for line in _lines(path))
    return next((int(line[1]) for line in lines if line[:1] == ["inactive_file"]), 0)


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
