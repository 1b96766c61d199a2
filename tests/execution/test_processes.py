"""Processes as an executor: started at need, replaced where one is killed, and all gone at the end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest
from workers import ENDINGS, die_always, die_once, named, unlucky

from onnx_ocs.errors import UserError
from onnx_ocs.execution.engine import Engine
from onnx_ocs.execution.processes import Processes, no_interrupts


@pytest.fixture(autouse=True)
def nobody_left() -> Any:
    yield
    end = time.monotonic() + 10  # the rest of a pool that lost a process is ended by a thread of the pool's own
    while multiprocessing.active_children() and time.monotonic() < end:
        time.sleep(0.01)
    assert not multiprocessing.active_children()


def test_only_as_many_as_there_are_tasks() -> None:
    with Processes(8) as executor:
        assert not multiprocessing.active_children()
        first = [executor.submit(named, k) for k in range(2)]
        wait(first)
        pids = {f.result() for f in first}
        assert executor.submit(named, 3).result() in pids and os.getpid() not in pids
        failing = executor.submit(unlucky, 3)
        assert isinstance(failing.exception(), ZeroDivisionError)
        assert len(multiprocessing.active_children()) == 2
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(named, 1)


@pytest.mark.skipif(not ENDINGS, reason="needs SIGKILL")
def test_a_killed_process_costs_its_task_alone(tmp_path: Path) -> None:
    flag = tmp_path / "died"
    with Processes(2) as executor, Engine(executor) as engine:
        assert list(engine.in_order(die_once, ((k, flag) for k in range(6)))) == list(range(6))
        assert flag.exists()
        with pytest.raises(UserError, match="3 times"):
            list(engine.in_order(die_always, [(0,)]))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_end_with_a_coordinator_that_is_killed() -> None:
    script = """
        import os, time
        from onnx_ocs.execution.processes import Processes
        if __name__ == "__main__":
            executor = Processes(2)
            idle, busy = executor.submit(os.getpid), executor.submit(time.sleep, 60)
            print(idle.result(), *(p.pid for pool in executor._pools for p in pool._processes.values()), flush=True)
            busy.result()
    """
    words = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as coordinator:
        assert coordinator.stdout is not None
        pids = {int(p) for p in coordinator.stdout.readline().split()}
        assert len(pids) == 2
        coordinator.kill()
    end = time.monotonic() + 20
    while any(alive(p) for p in pids) and time.monotonic() < end:
        time.sleep(0.05)
    left = [p for p in pids if alive(p)]
    for p in left:
        os.kill(p, signal.SIGKILL)
    assert not left


def alive(pid: int) -> bool:
    """Whether there is such a process; one that nobody has waited for is none."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.skipif(not ENDINGS, reason="needs SIGKILL")
def test_a_process_that_is_killed_while_it_is_idle() -> None:
    with Processes(1) as executor, Engine(executor) as engine:
        (pid,) = engine.in_order(named, [(0,)])
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
        (other,) = engine.in_order(named, [(0,)])
        assert other != pid


def test_shutdown_does_not_wait_for_what_nobody_asks_for() -> None:
    start = time.monotonic()
    with Processes(1) as executor:
        running, waiting = executor.submit(time.sleep, 60), executor.submit(time.sleep, 60)
        time.sleep(0.3)
    assert time.monotonic() - start < 30
    assert waiting.cancelled() and running.exception() is not None


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs signals that can wait")
@pytest.mark.parametrize("elsewhere", [False, True])
def test_an_interrupt_waits_until_the_processes_have_started(elsewhere: bool) -> None:
    """Even where another thread receives it."""
    done, over = False, threading.Event()
    other = threading.Thread(target=over.wait, daemon=True)
    if elsewhere:
        other.start()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt), no_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            done = True
    finally:
        signal.signal(signal.SIGINT, before)
        over.set()
    assert done
