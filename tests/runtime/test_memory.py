"""What is free is read from the machine and its control groups; what a run may take is bounded."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_ocs.runtime import memory as module
from onnx_ocs.runtime.memory import allow_memory, free_memory, give_back, memory, no_cycles, share_of_memory


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    allow_memory(None)
    yield
    allow_memory(None)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes what the system says: kilobytes available, and the files of control groups."""
    groups = tmp_path / "cgroup"
    monkeypatch.setattr(module, "INFO", tmp_path / "meminfo")
    monkeypatch.setattr(module, "GROUPS", groups)
    monkeypatch.setattr(module, "OWN", tmp_path / "own")

    def write(available: int, own: str = "", **files: str) -> None:
        (tmp_path / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {available} kB\n")
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = groups / name.replace("__", "/").replace("_max", ".max").replace("_now", ".current")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


def test_what_is_said_holds() -> None:
    allow_memory(0.5)
    assert memory() == 500_000_000 and share_of_memory(4) == 125_000_000


def test_half_of_what_is_free(machine: Any) -> None:
    machine(500_000)
    assert free_memory() == 512_000_000 and memory() == 256_000_000
    machine(9)
    assert memory() == 256_000_000, "asked once"
    allow_memory(None)
    assert memory() == 9 * 512


def test_no_more_than_is_useful(machine: Any) -> None:
    machine(100_000_000)
    assert memory() == module.USUAL


def test_a_container_bounds_it(machine: Any) -> None:
    """The tightest of the groups from the process's own to the root, without what they hold of files."""
    machine(1_000_000, "0::/a/b\n", a__memory_max="5000000\n", a__memory_now="2000000\n", a__b__memory_max="max\n")
    assert free_memory() == 3_000_000
    machine(1_000_000, "0::/a/b\n", **{"a__memory.stat": "anon 7\ninactive_file 500000\n"})
    assert free_memory() == 3_500_000


def test_a_system_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INFO", "GROUPS", "OWN"):
        monkeypatch.setattr(module, name, tmp_path / "nothing")
    assert free_memory() == module.UNKNOWN


def test_memory_that_was_freed_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks too small for a mapping of their own, under one that stays; where there is no such call, it stays."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    if module._TRIM is None:
        pytest.skip("another C library")
    blocks = [np.ones(1 << 13, np.uint8) for _ in range(4000)]
    last = np.ones(1 << 13, np.uint8)
    del blocks
    before = resident()
    give_back()
    assert before - resident() > 20e6 and last.all()
    monkeypatch.setattr(module, "_TRIM", None)
    give_back()


THREADS = """
import ctypes, sys, threading
from onnx_ocs.runtime.memory import few_heaps
c = ctypes.CDLL(None)
c.malloc.restype = c.fopen.restype = ctypes.c_void_p
if sys.argv[1] == "few":
    few_heaps()
together = threading.Barrier(6)
def work():
    together.wait()
    c.malloc(1000)
    together.wait()
threads = [threading.Thread(target=work) for _ in range(6)]
[t.start() for t in threads]
[t.join() for t in threads]
out = c.fopen(b"/dev/stdout", b"w")
c.malloc_info(0, ctypes.c_void_p(out))
c.fflush(ctypes.c_void_p(out))
"""


@pytest.mark.parametrize(("how", "said", "few"), [("few", None, True), ("many", None, False), ("few", "5", False)])
def test_threads_share_two_heaps(how: str, said: str | None, few: bool) -> None:
    """Six threads that ask for memory at once have a heap each, but where they share; what the user says holds."""
    if module._MALLOPT is None:
        pytest.skip("another C library")
    env = {k: v for k, v in os.environ.items() if k != "MALLOC_ARENA_MAX"}
    env |= {"MALLOC_ARENA_MAX": said} if said else {}
    found = subprocess.run([sys.executable, "-c", THREADS, how], capture_output=True, text=True, check=True, env=env)
    assert (found.stdout.count("<heap nr") <= 2) == few, found.stdout


@pytest.mark.parametrize("enabled", [True, False])
def test_cycles_are_looked_for_again_afterwards(enabled: bool) -> None:
    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(ValueError, match="inside"), no_cycles():
            assert not gc.isenabled()
            raise ValueError("inside")
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was else gc.disable)()
