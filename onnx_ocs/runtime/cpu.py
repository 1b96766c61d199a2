"""The CPU: which instruction sets decide what integer kernels run, and whether these saturate."""

from __future__ import annotations

import platform
from pathlib import Path

__all__ = ["cpu_flags", "may_saturate"]

CPU_FLAGS = ("avx", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm")
EXACT = {"avx512_vnni", "avx_vnni", "amx_int8"}  # sum in 32 bits


def cpu_flags() -> list[str]:
    """Instruction sets that decide which integer kernels run (Linux only; empty elsewhere)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return []
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            found = set(line.split(":", 1)[1].split())
            return [f for f in CPU_FLAGS if f in found]
    return []


def may_saturate() -> bool:
    """Whether int8 kernels may saturate here: on x86 that is not known to have instructions that do not."""
    return platform.machine() in ("x86_64", "AMD64") and EXACT.isdisjoint(cpu_flags())
