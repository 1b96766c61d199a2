"""What results depend on is in the report."""

from __future__ import annotations

import platform

import onnxruntime

from onnx_ocs.report.environment import environment, package_version
from onnx_ocs.runtime.cpu import cpu_flags


def test_versions() -> None:
    found = environment(7)
    assert found["cpu_flags"] == cpu_flags()
    assert found["seed"] == 7 and found["onnxruntime"] == onnxruntime.__version__
    assert found["python"] == platform.python_version()
    assert package_version("no-such-package-at-all") == "unknown"
