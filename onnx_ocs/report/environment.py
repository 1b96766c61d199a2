"""The machine and the packages that results depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from onnx_ocs.report.measures import EnvironmentEntry

__all__ = ["environment", "package_version"]

CPU_FLAGS = ("avx", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm")


def _cpu_flags() -> list[str]:
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


def environment(seed: int) -> EnvironmentEntry:
    """Versions and hardware that results depend on."""
    return {
        "onnx_ocs": package_version("onnx-ocs"),
        "onnxruntime": package_version("onnxruntime"),
        "onnx": package_version("onnx"),
        "numpy": package_version("numpy"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu_flags": _cpu_flags(),
        "seed": seed,
    }


def package_version(package: str) -> str:
    """Version of an installed package; "unknown" for one that is not (a source checkout)."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
