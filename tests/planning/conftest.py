"""Fixtures of the planner's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onnx_ocs.runtime import session as runtime


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    """Small models run six times faster without onnxruntime's thread pools."""
    make = runtime.session_options

    def options(*args: Any) -> Any:
        o = make(*args)
        o.intra_op_num_threads = 1
        return o

    runtime.session_options = options
    yield
    runtime.session_options = make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calibration")
