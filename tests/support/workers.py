"""Tasks that tests give to workers: functions of a module, as workers find them by their names."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from onnx_ocs.runtime.memory import memory

__all__ = ["ENDINGS", "allowed", "die_always", "die_once", "named", "slow", "square", "unlucky"]

ENDINGS = hasattr(signal, "SIGKILL")


def square(x: int) -> int:
    return x * x


def slow(x: int) -> int:
    """The first tasks take longest."""
    time.sleep(0.02 * max(0, 3 - x))
    return x


def named(_x: int) -> int:
    return os.getpid()


def unlucky(x: int) -> int:
    if x == 3:
        raise ZeroDivisionError("three")
    return x


def die_once(x: int, flag: Path) -> int:
    """The worker of task 2 is killed, the first time."""
    if x == 2 and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def die_always(x: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return x


def allowed() -> int:
    """Bytes that this process may keep."""
    return memory()
