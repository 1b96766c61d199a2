"""The machine and the packages that results depend on."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from onnx_ocs.report.measures import EnvironmentEntry
from onnx_ocs.runtime.cpu import cpu_flags

__all__ = ["environment", "package_version"]


def environment(seed: int) -> EnvironmentEntry:
    """Versions and hardware that results depend on."""
    return {
        "onnx_ocs": package_version("onnx-ocs"),
        "onnxruntime": package_version("onnxruntime"),
        "onnx": package_version("onnx"),
        "numpy": package_version("numpy"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu_flags": cpu_flags(),
        "seed": seed,
    }


@cache
def package_version(package: str) -> str:
    """Version of an installed package; "unknown" for one that is not (a source checkout)."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
