"""Plans are the same to the byte whoever answers the questions, and whoever is killed meanwhile."""

from __future__ import annotations

import logging
import os
import signal
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from killed import EXECUTORS, killing

from onnx_ocs import api
from onnx_ocs.calibration.samples import Source
from onnx_ocs.planning import questions
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.questions import Questions

Array = np.ndarray[Any, Any]
QUICK = PlanOptions(copies=1, budget=0.2, mode="late", effort="quick")


def data(count: int) -> tuple[onnx.ModelProto, Array]:
    model, feed = zoo.build("residual")
    x = np.random.default_rng(11).standard_normal((count, *feed["x"].shape[1:])) * 3
    return model, x.astype(np.float32)


def planned(model: onnx.ModelProto, source: Source, executor: Executor | str | None, **more: Any) -> str:
    return api.plan(model, source, more.pop("options", QUICK), executor=executor, **more)[0].to_json()


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Grows with every answer of a worker that is used."""
    seen: list[tuple[int, int]] = []
    answers = Questions.answers

    def counted(*args: Any, **named: Any) -> Any:
        for n, k, error in answers(*args, **named):
            seen.append((n, k))
            yield n, k, error

    monkeypatch.setattr(Questions, "answers", counted)
    return seen


def test_threads_and_one_process(tmp_path: Path, answered: list[Any]) -> None:
    """Tensors alone, plans, tensors in place, and regions left out; workers ask the float model, too."""
    model, x = data(44)
    np.savez(tmp_path / "c.npz", x=x)
    more: dict[str, Any] = {"float_model": model, "options": replace(QUICK, effort="full")}
    alone = planned(model, {"x": x}, None, **more)
    assert not answered
    with ThreadPoolExecutor(3) as pool:
        assert planned(model, str(tmp_path / "c.npz"), pool, **more) == alone
    assert len(answered) > 40


def test_the_only_feed_is_cut(answered: list[Any]) -> None:
    """Samples that only this process has go with the tasks."""
    model, x = data(7)
    with ThreadPoolExecutor(2) as pool:
        assert planned(model, {"x": x}, pool) == planned(model, {"x": x}, None)
    assert answered and {k for _, k in answered} == {0}


def test_a_worker_that_computes_otherwise(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answered: list[Any]
) -> None:
    """This process answers in its place."""
    model, x = data(17)
    alone = planned(model, {"x": x}, None)
    answer = questions._answer
    monkeypatch.setattr(questions, "_answer", lambda *a: (0, [None] * len(answer(*a)[1])))
    with ThreadPoolExecutor(1) as pool, caplog.at_level(logging.WARNING, "onnx_ocs.planning"):
        assert planned(model, {"x": x}, pool) == alone
    assert not answered and "computes other numbers" in caplog.text


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_worker_that_is_killed_between_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answered: list[Any], executor: str
) -> None:
    model, x = data(40)
    np.savez(tmp_path / "c.npz", x=x)
    (tmp_path / "ocs_asked.py").write_text(killing(os.getpid(), 5, 3, 'Path("asking").exists()'))
    monkeypatch.chdir(tmp_path)

    def progress(what: str, *_: Any) -> None:
        if what == "weighing tensors":
            Path("asking").touch()

    found = planned(model, "ocs_asked:feeds", executor, progress=progress)
    assert Path("died").exists() and answered
    assert found == planned(model, {"x": x}, None)
