"""Fixtures that several test files use."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: workers share the cores, and threads that wait spin

from covering import FULL

from onnx_ocs.cli import app as cli
from onnx_ocs.measurement.latency import LEAST
from onnx_ocs.targets import ort

ort.KNOWN = 500  # optimized graphs that are remembered: many tests ask about the same small models
sys.path.append(str(Path(__file__).resolve().parent.parent))  # `models` is no part of the installed package


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(FULL, action="store_true", help="whole products of models and options, not what covers them")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Rows that stand for others' (`covering`) are left out, unless all are asked for."""
    left = [] if config.getoption(FULL) else [i for i in items if i.get_closest_marker("full")]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [i for i in items if not i.get_closest_marker("full")]


@pytest.fixture(autouse=True)
def log() -> Iterator[logging.Logger]:
    """The package's logger, left as it was: the command line sets its level."""
    logger = logging.getLogger("onnx_ocs")
    handlers, level = [*logger.handlers], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency by few runs: most tests only ask whether it is there, and what asks for more says so."""
    monkeypatch.setattr("onnx_ocs.measurement.latency.ROUNDS", LEAST)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Call the command line in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("onnx_ocs.cli.outputs.SECONDS", 3600.0)  # on a busy machine anything may take ten seconds

    def call(*args: object) -> tuple[Any, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["onnx_ocs", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return (stop.value.code, *capfd.readouterr())

    return call
