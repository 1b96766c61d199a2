"""Calibration by workers: the same bytes, every source, and no process left behind."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from killed import EXECUTORS, killing
from onnx import numpy_helper

from onnx_ocs import api
from onnx_ocs.calibration.collect import ALL, calibrate, counted_before
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.origin import Origin
from onnx_ocs.calibration.samples import Samples, open_samples
from onnx_ocs.calibration.statistics import Statistics
from onnx_ocs.errors import UserError
from onnx_ocs.execution.choice import engine
from onnx_ocs.model.files import fingerprint
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Quantized, adjustable

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


def regions_of(model: onnx.ModelProto) -> list[Quantized]:
    return find_regions(Graph(model), infer_shapes(model))


def count_all(
    model: onnx.ModelProto, samples: Samples, executor: Executor | str | None, seen: Progress | None = None, **more: Any
) -> Statistics:
    log: Progress = [] if seen is None else seen
    with engine(executor) as workers:
        context = Context(samples, progress=lambda *p: log.append(p), engine=workers)
        return calibrate(model, regions_of(model), context, fingerprint(model), **more)


@pytest.fixture
def threads() -> Any:
    with ThreadPoolExecutor(3) as pool:
        yield pool


def test_the_same_statistics_and_plan(tmp_path: Path, threads: Executor) -> None:
    """Of five batches and a part of one, in this process, by threads, and by processes."""
    model, x = data(43)
    np.savez(tmp_path / "c.npz", x=x)
    samples = open_samples(str(tmp_path / "c.npz"), model)
    seen: Progress = []
    alone = count_all(model, samples, None)
    by_threads = count_all(model, samples, threads, seen)
    assert alone.samples == by_threads.samples == 43
    assert alone.to_bytes() == by_threads.to_bytes() == count_all(model, samples, "processes:2").to_bytes()
    assert seen == [("calibrating", n, 6) for n in (0, *sorted(d for _, d, _ in seen[1:-1]), 6)]
    options = PlanOptions(copies=2, budget=0.2, effort="quick")
    plans = {api.plan(model, samples, options, executor=e)[0].to_json() for e in (None, threads)}
    assert len(plans) == 1


def test_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: Executor) -> None:
    """A file, folders, functions, and what only this process has."""
    model, x = data(80)
    np.savez(tmp_path / "c.npz", x=x)
    (tmp_path / "parts").mkdir()
    for i in range(0, 80, 20):
        np.savez(tmp_path / "parts" / f"{i:02}.npz", x=x[i : i + 20])
    for i in range(80):
        folder = tmp_path / "sets" / f"test_data_set_{i}"
        folder.mkdir(parents=True)
        onnx.save_tensor(numpy_helper.from_array(x[i : i + 1], "x"), str(folder / "input_0.pb"))
    (tmp_path / "ocs_reader.py").write_text(
        textwrap.dedent("""
            import numpy as np
            asked = []
            def feeds():
                x = np.load("c.npz")["x"]
                return ({"x": x[i : i + 4]} for i in range(0, len(x), 4))
            def parts(shard):
                asked.append(shard)
                x = np.load("c.npz")["x"]
                return [{"x": x[4 * k : 4 * k + 4]} for k in range(*shard.indices(20))]
        """)
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    counted = {}
    for source in ("c.npz", "parts", "sets", "ocs_reader:feeds", "ocs_reader:parts", {"x": x}):
        samples = open_samples(source, model)  # type: ignore[arg-type]
        alone = count_all(model, samples, None)
        assert alone.to_bytes() == count_all(model, samples, threads).to_bytes()
        counted[str(source)] = b"".join(h.counts.tobytes() for h in alone.histograms.values())
    assert len(set(counted.values())) == 1, "no tensor is so large that values are left out: all sources count the same"
    assert count_all(model, open_samples("ocs_reader:parts", model), None, part=(16, 20)).samples == 16
    assert sys.modules["ocs_reader"].asked[-1] == slice(16, None), "what is not wanted is not asked for"


def test_parts_add_up_in_any_order(tmp_path: Path) -> None:
    model, x = data(75)
    np.savez(tmp_path / "c.npz", x=x)
    samples = open_samples(str(tmp_path / "c.npz"), model)
    whole = count_all(model, samples, None)
    parts = [count_all(model, samples, None, part=r) for r in ((7, 10), (0, 3), (3, 3), (3, 7))]
    assert [p.samples for p in parts] == [19, 24, 0, 32]
    for p in parts[1:]:
        parts[0].merge(p)
    assert parts[0].to_bytes() == whole.to_bytes()


def test_statistics_from_a_file(tmp_path: Path) -> None:
    """Of all tensors, or of some; as they would be made now, or refused."""
    model, x = data(16)
    np.savez(tmp_path / "c.npz", x=x)
    samples, regions = open_samples(str(tmp_path / "c.npz"), model), regions_of(model)
    steps = [k for k in adjustable(regions) if not regions[k].walk.weights]  # type: ignore[union-attr]
    assert steps
    every = count_all(model, samples, None, steps=steps, counted=ALL)
    path = tmp_path / "s.npz"
    every.save(path)
    now = count_all(model, samples, None)
    found = counted_before(path, every.model_hash, regions, list)
    assert found.regions == now.regions and found.regions != every.regions
    for k, h in now.histograms.items():
        assert h.counts.tobytes() == found.histograms[k].counts.tobytes()
    now.save(path)
    assert counted_before(path, every.model_hash, regions, list).regions == now.regions

    def refused(**changes: Any) -> str:
        assert isinstance(every.origin, Origin)
        origin, every.origin = every.origin, replace(every.origin, **changes)
        every.save(path)
        every.origin = origin
        with pytest.raises(UserError) as error:
            counted_before(path, every.model_hash, regions, list)
        return str(error.value)

    assert "feed 1 of 2 is missing" in refused(parts=((0, 1),))
    assert "another --float" in refused(settings={"--float": "0"})


def test_a_worker_that_computes_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = data(64)
    np.savez(tmp_path / "c.npz", x=x)
    samples = open_samples(str(tmp_path / "c.npz"), model)
    seen: list[str] = []

    def otherwise(*_: Any) -> str:
        seen.append("")
        return f"0 {len(seen)}"

    class Forgetful(ThreadPoolExecutor):
        """Each task is a fresh worker's."""

        def submit(self, fn: Any, /, *args: Any, **_: Any) -> Any:
            from onnx_ocs.execution.kept import forget

            return super().submit(lambda: (forget(), fn(*args))[1])

    monkeypatch.setattr("onnx_ocs.calibration.collect._probe", otherwise)
    with Forgetful(1) as pool, pytest.raises(UserError, match="one kind of processor"):
        count_all(model, samples, pool)


class Ready:
    """Samples that a generator gives."""

    def __init__(self, feeds: Any, count: int) -> None:
        self.samples = Samples("generated", lambda *_: feeds(), count)


def test_an_error_in_the_users_code(threads: Executor) -> None:
    model, x = data(40)

    def feeds() -> Any:
        for i in range(0, 40, 8):
            if i == 24:
                raise UserError("the fourth feed is broken")
            yield 8, {"x": x[i : i + 8]}

    with pytest.raises(UserError, match="fourth feed"):
        count_all(model, Ready(feeds, 40).samples, threads)


def test_a_sample_that_the_model_does_not_take(threads: Executor) -> None:
    model, x = data(40)

    def feeds() -> Any:
        for i in range(0, 40, 8):
            yield 8, {"x": x[i : i + 8] if i < 24 else x[i : i + 8, :1]}

    for executor in (None, threads):
        with pytest.raises(UserError, match="does not run the model on the calibration samples"):
            count_all(model, Ready(feeds, 40).samples, executor)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_worker_that_is_killed_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: str) -> None:
    model, x = data(72)
    np.savez(tmp_path / "c.npz", x=x)
    (tmp_path / "ocs_killed.py").write_text(killing(os.getpid(), 9, 6))
    monkeypatch.chdir(tmp_path)
    samples = open_samples("ocs_killed:feeds", model)
    killed = count_all(model, samples, executor)
    assert Path("died").exists()
    assert killed.to_bytes() == count_all(model, samples, None).to_bytes()


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
            class Slow:
                def __len__(self):
                    return 100_000
                def __iter__(self):
                    x = np.load("x.npz")["x"]
                    for i in range(100_000):
                        if i == 20:  # only the workers read that far
                            pathlib.Path("started").touch()
                        time.sleep(0.01)
                        yield {"x": x[:8]}
            def feeds():
                return Slow()
        """)
    )
    args = ["calibrate", "in.onnx", "-o", "s.npz", "--calib", "slow:feeds", "--executor", "processes:2"]
    child = subprocess.Popen(
        [sys.executable, "-m", "onnx_ocs", *args],
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
    assert out == "" and not (tmp_path / "s.npz").exists()
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
