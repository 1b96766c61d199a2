"""Calibration in several processes: the same bytes, every source, and no process left behind."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from onnx import numpy_helper

from onnx_ocs import api
from onnx_ocs.calibration import collect
from onnx_ocs.calibration.collect import calibrate
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import Samples, open_samples
from onnx_ocs.calibration.statistics import Statistics
from onnx_ocs.errors import UserError
from onnx_ocs.model.files import fingerprint
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.regions.find import find_regions

ROOT = Path(__file__).resolve().parents[2]
Array = np.ndarray[Any, Any]
Progress = list[tuple[str, int, int | None]]


@pytest.fixture(autouse=True)
def nobody_left() -> Any:
    yield
    assert not multiprocessing.active_children()


def data(count: int) -> tuple[onnx.ModelProto, Array]:
    """A network with residual tensors, and samples whose sizes differ, so that ranges grow on the way."""
    model, feed = zoo.build("residual")
    rng = np.random.default_rng(11)
    x = rng.standard_normal((count, *feed["x"].shape[1:])) * np.geomspace(0.01, 100, count).reshape(-1, 1, 1, 1)
    return model, x.astype(np.float32)


def count_all(model: onnx.ModelProto, samples: Samples, jobs: int, seen: Progress | None = None) -> Statistics:
    regions = find_regions(Graph(model), infer_shapes(model))
    log: Progress = [] if seen is None else seen
    context = Context(samples, progress=lambda *p: log.append(p))
    return calibrate(model, regions, context, fingerprint(model), jobs)


def bytes_of(statistics: Statistics, path: Path) -> bytes:
    statistics.save(path)
    return path.read_bytes()


def test_the_same_statistics_and_plan(tmp_path: Path) -> None:
    model, x = data(43)  # five batches and a part of one
    np.savez(tmp_path / "c.npz", x=x)
    saved, plans, ends = set(), set(), set()
    for jobs in (1, 2, 3, 8):
        samples = open_samples(str(tmp_path / "c.npz"), model)
        seen: Progress = []
        statistics = count_all(model, samples, jobs, seen)
        assert statistics.samples == 43
        saved.add(bytes_of(statistics, tmp_path / "s.npz"))
        done = [d for what, d, _ in seen if what == "calibrating"]
        assert done == sorted(done) and len(set(done)) >= 6, "the progress bar moves"
        ends.add(seen[-1])
        if jobs < 4:
            plans.add(api.plan(model, samples, PlanOptions(jobs=jobs, copies=2, budget=0.2))[0].to_json())
    assert len(saved) == len(plans) == 1
    assert ends == {("calibrating", 43, 43)}


def test_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, folders, and a function, which is called in this process only, as often as with one process."""
    model, x = data(20)
    np.savez(tmp_path / "c.npz", x=x)
    (tmp_path / "parts").mkdir()
    for i in range(0, 20, 5):
        np.savez(tmp_path / "parts" / f"{i:02}.npz", x=x[i : i + 5])
    for i in range(20):
        folder = tmp_path / "sets" / f"test_data_set_{i}"
        folder.mkdir(parents=True)
        onnx.save_tensor(numpy_helper.from_array(x[i : i + 1], "x"), str(folder / "input_0.pb"))
    (tmp_path / "ocs_reader.py").write_text(
        textwrap.dedent("""
            import os
            import numpy as np
            calls = []
            def feeds():
                calls.append(os.getpid())
                x = np.load("c.npz")["x"]
                return ({"x": x[i : i + 4]} for i in range(0, len(x), 4))
        """)
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    found, counted = {}, {}
    for source in ("c.npz", "parts", "sets", "ocs_reader:feeds"):
        samples = open_samples(source, model)
        for jobs in (1, 2):
            statistics = count_all(model, samples, jobs)
            found[source, jobs] = bytes_of(statistics, tmp_path / "s.npz")
            counted[source, jobs] = b"".join(h.counts.tobytes() for h in statistics.histograms.values())
        assert found[source, 1] == found[source, 2]
    assert len(set(counted.values())) == 1, "no tensor is so large that values are left out: all sources count the same"
    calls = sys.modules["ocs_reader"].calls
    assert set(calls) == {os.getpid()} and len(calls) <= 5


class Ready:
    """Samples that a generator gives."""

    def __init__(self, feeds: Any, count: int) -> None:
        self.samples = Samples("generated", lambda *_: feeds(), count)


def test_an_error_in_the_users_code() -> None:
    model, x = data(40)

    def feeds() -> Any:
        for i in range(0, 40, 8):
            if i == 24:
                raise UserError("the fourth feed is broken")
            yield 8, {"x": x[i : i + 8]}

    with pytest.raises(UserError, match="fourth feed"):
        count_all(model, Ready(feeds, 40).samples, 2)


def test_a_sample_that_the_model_does_not_take() -> None:
    model, x = data(40)

    def feeds() -> Any:
        for i in range(0, 40, 8):
            yield 8, {"x": x[i : i + 8] if i < 24 else x[i : i + 8, :1]}

    for jobs in (1, 2):
        with pytest.raises(UserError, match="does not run the model on the calibration samples"):
            count_all(model, Ready(feeds, 40).samples, jobs)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("after", [0.0, 1.0])
def test_a_process_that_is_killed(after: float) -> None:
    """At work, or after its answer has been sent: then the next batch finds nobody."""
    model, x = data(80)

    def feeds() -> Any:
        for i in range(0, 80, 8):
            if i == 40:
                time.sleep(after)
                for victim in multiprocessing.active_children():
                    os.kill(victim.pid, signal.SIGKILL)
                    victim.join()
            yield 8, {"x": x[i : i + 8]}

    with pytest.raises(UserError, match="--jobs"):
        count_all(model, Ready(feeds, 80).samples, 2)


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
        with pytest.raises(KeyboardInterrupt), collect._no_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            done = True
    finally:
        signal.signal(signal.SIGINT, before)
        over.set()
    assert done


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C reaches the whole group: one line, exit code 130, and nobody is left."""
    model, x = data(16)
    onnx.save(model, tmp_path / "in.onnx")
    np.savez(tmp_path / "x.npz", x=x)
    (tmp_path / "slow.py").write_text(
        textwrap.dedent("""
            import pathlib, time
            import numpy as np
            def feeds():
                x = np.load("x.npz")["x"]
                for i in range(100_000):
                    if i == 100:  # only the calibration reads that far
                        pathlib.Path("started").touch()
                    time.sleep(0.01)
                    yield {"x": x[:8]}
        """)
    )
    args = ["plan", "in.onnx", "-o", "p.json", "--calib", "slow:feeds", "--samples", "40000", "--jobs", "2"]
    script = "import onnx_ocs.calibration.samples as c; c.Samples.count = lambda self, limit=None: 800_000\n"
    script += "from onnx_ocs.cli import main\n"
    (tmp_path / "run.py").write_text(script + 'if __name__ == "__main__":\n    main()\n')
    child = subprocess.Popen(
        [sys.executable, "run.py", *args],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
    )
    limit = time.monotonic() + 120
    while not (tmp_path / "started").exists() and time.monotonic() < limit and child.poll() is None:
        time.sleep(0.1)
    time.sleep(0.5)
    group = members(child.pid)
    assert len(group) >= 3, "this process and two workers"
    os.killpg(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=60)
    err = re.sub(r"(?m)^.*, \d+:\d\d:\d\d\n", "", err)  # on a busy machine it takes ten seconds: progress
    assert child.returncode == 130 and err == "Interrupted: nothing was written.\n", err
    assert out == "" and not (tmp_path / "p.json").exists()
    time.sleep(0.5)
    assert not members(child.pid)


def members(group: int) -> list[int]:
    """Processes of a group that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_jobs_are_for_plans(run: Any) -> None:
    model, calib = ROOT / "models" / "digits.w8a2.onnx", ROOT / "models" / "digits.calib.npz"
    code, out, err = run("rewrite", model, "o.onnx", "--calib", calib, "--select", "mass", "--jobs", 2)
    assert (code, out) == (1, "") and "--jobs" in err
    assert run("rewrite", model, "o.onnx", "--calib", calib, "--jobs", 0)[0] == 1
