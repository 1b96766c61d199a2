"""Python commands in processes of their own that have imported the package already: it is imported once, and forked.

A command that takes a second or two spends half of that with imports.  The process that is forked has done nothing
else, so that no command sees what another one did.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

from onnx_ocs.measurement import latency

__all__ = ["QUICK", "run_python"]

# the command line in a process from nothing, in front of its arguments; latency by few runs, as in this process
QUICK = [
    sys.executable, "-c", "from onnx_ocs.measurement import latency; latency.ROUNDS = latency.LEAST; "
    "from onnx_ocs.cli.app import main; main()",
]  # fmt: skip

IMPORTED = ["onnx_ocs.api", "onnx_ocs.cli.app", "onnx_ocs.report.terminal"]
IMPORTED += [f"onnx_ocs.verbs.{verb}" for verb in ("calibrate", "inspect", "plan", "rewrite", "verify")]


def run_python(args: Sequence[str], folder: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """What `python ARGS` does in a folder: `-c CODE`, or `-m onnx_ocs ...`; all else by a process from nothing."""
    if args[0] != "-c" and list(args[:2]) != ["-m", "onnx_ocs"]:
        command = [sys.executable, *args]
        return subprocess.run(command, cwd=folder, env=dict(env), capture_output=True, text=True, check=False)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    with TemporaryDirectory() as place:
        told = [Path(place) / "stdout", Path(place) / "stderr"]
        child = context.Process(target=_run, args=(list(args), str(folder), dict(env), [str(t) for t in told]))
        child.start()
        child.join()
        assert child.exitcode is not None
        texts = [t.read_text(encoding="utf-8") if t.exists() else "" for t in told]
        return subprocess.CompletedProcess(list(args), child.exitcode, *texts)


def _run(args: list[str], folder: str, env: dict[str, str], told: list[str]) -> None:
    """In the new process."""
    for stream, path in enumerate(told, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    latency.ROUNDS = latency.LEAST  # as in this process (conftest): what is asked is whether it is there
    sys.path.insert(0, "")
    if args[0] == "-c":
        sys.argv = ["-c"]
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(args[1], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = [args[1], *args[2:]]
        runpy.run_module(args[1], run_name="__main__", alter_sys=True)
