"""Dask's workers as an executor; without Dask one sentence says what to install."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from onnx_ocs.errors import UserError
from onnx_ocs.execution.clusters import cluster

THERE = importlib.util.find_spec("distributed") is not None
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(THERE, reason="Dask is installed")
def test_without_dask() -> None:
    with pytest.raises(UserError, match=r"pip install 'onnx-ocs\[dask\]'"), cluster(None, 1):
        pass


@pytest.mark.skipif(not THERE, reason="needs Dask")
def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_ocs.execution.clusters.PATIENCE", "1s")
    address = "tcp://127.0.0.1:9"
    with pytest.raises(UserError, match=f"no Dask scheduler answers at {address}"), cluster(address, None):
        pass


@pytest.mark.parametrize("starts", [True, False])
def test_who_has_started_begins(monkeypatch: pytest.MonkeyPatch, starts: bool) -> None:
    """On a busy machine some of a local cluster's workers start late, or never."""

    class Client(nullcontext[Any]):
        def wait_for_workers(self, count: int, timeout: float) -> None:
            if count > starts:
                raise TimeoutError(timeout)

        def get_executor(self) -> str:
            return "executor"

        def __enter__(self) -> Any:
            return self

    fake = SimpleNamespace(Client=Client, LocalCluster=lambda *_, **__: nullcontext())
    monkeypatch.setitem(sys.modules, "distributed", fake)
    if starts:
        with cluster(None, 4) as found:
            assert found == ("executor", 4)
    else:
        with pytest.raises(UserError, match="no worker of Dask's local cluster has started"), cluster(None, 4):
            pass


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, "SUPPORT")
from workers import die_once
from onnx_ocs.execution.choice import engine
if __name__ == "__main__":
    with engine("dask:local:2") as e:
        print(list(e.in_order(die_once, ((k, Path("died")) for k in range(6)))), Path("died").exists())
"""


@pytest.mark.skipif(not THERE or not hasattr(signal, "SIGKILL"), reason="needs Dask and SIGKILL")
def test_a_killed_worker_costs_its_tasks(tmp_path: Path) -> None:
    support = ROOT / "tests" / "support"
    (tmp_path / "run.py").write_text(SCRIPT.replace("SUPPORT", str(support)))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(support)))}
    command = [sys.executable, "run.py"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "[0, 1, 2, 3, 4, 5] True\n", done.stderr
