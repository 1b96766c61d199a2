"""The user's own figure: imported, asked over all samples, and its mistakes told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_ocs.errors import UserError
from onnx_ocs.measurement.metric import Scale, evaluate, load_metric

Y = [{"y": np.full((2, 3), k, np.float32)} for k in range(3)]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of the user's, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield lambda text: (tmp_path / "ocs_user_metric.py").write_text(text)
    sys.modules.pop("ocs_user_metric", None)


def test_a_function_of_the_users_module(module: Any) -> None:
    module("def best(outputs, references, labels):\n    return outputs['y'].max() + labels['z'].sum()\n")
    metric = load_metric("ocs_user_metric:best")
    labels = [{"z": np.ones(2)}, {"z": np.ones(2)}, {"z": np.ones(2)}]
    assert evaluate(metric, Y, Y, labels) == 8.0


@pytest.mark.parametrize(
    ("text", "source", "message"),
    [
        ("", "no_such_module_of_ocs:f", "no_such_module_of_ocs:f failed .ModuleNotFoundError: .* name a function"),
        ("", "ocs_user_metric:f", "failed .AttributeError"),
        ("f = 3", "ocs_user_metric:f", "ocs_user_metric:f is a int: name a function of three arguments"),
        ("def f(:", "ocs_user_metric:f", "failed .SyntaxError"),
        ("", "hits", "--metric hits: give package.module:function"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported(module: Any, text: str, source: str, message: str) -> None:
    module(text)
    with pytest.raises(UserError, match=message):
        load_metric(source)


@pytest.mark.parametrize("value", [None, "0.5", float("nan"), float("inf"), True, [0.5], np.ones(2), 1j])
def test_what_is_no_finite_number(value: Any) -> None:
    def mine(*_: Any) -> Any:
        return value

    with pytest.raises(UserError, match=r"the metric '.*mine' returned .*: return a finite number"):
        evaluate(mine, Y, Y, [])


@pytest.mark.parametrize("value", [3, np.float32(3), np.int64(3), np.asarray(3.0)])
def test_numbers_of_all_kinds(value: Any) -> None:
    assert evaluate(lambda *_: value, Y, Y, []) == 3.0


def test_what_raises_is_told_in_one_line() -> None:
    with pytest.raises(UserError, match=r"the metric '.*' failed .KeyError: 'boxes'"):
        evaluate(lambda outputs, *_: outputs["boxes"], Y, Y, [])
    with pytest.raises(UserError, match=r"failed .TypeError: .* of three arguments"):
        evaluate(lambda outputs: 1.0, Y, Y, [])  # type: ignore[arg-type, misc]


def test_feeds_are_joined_where_they_fit() -> None:
    seen: list[Any] = []
    uneven = [{"y": np.zeros((2, 3)), "n": np.zeros((k + 1, 5)), "s": np.asarray(k)} for k in range(2)]
    odd = [{"y": np.zeros((2, k + 1))} for k in range(2)]
    evaluate(lambda *args: seen.append(args) or 0.0, uneven, odd, [{}, {}])  # type: ignore[func-returns-value]
    outputs, references, labels = seen[0]
    assert outputs["y"].shape == (4, 3) and outputs["n"].shape == (3, 5), "another number of results is joined as well"
    assert [a.shape for a in outputs["s"]] == [(), ()] and [a.shape for a in references["y"]] == [(2, 1), (2, 2)]
    assert labels == {}


def test_a_scale_asks_once_and_lets_the_metric_decide() -> None:
    asked: list[int] = []

    def metric(outputs: Any, references: Any, labels: Any) -> float:
        asked.append(len(outputs["y"]))
        return float(outputs["y"].mean())

    scale = Scale(metric, Y, [{}] * 3)
    assert scale.best == 1.0 and asked == [6]
    run = {1: {"y": np.full((2, 3), 0.9)}, 2: {"y": np.full((2, 3), 0.8)}}
    assert scale.of("plan", [1, 2], run.__getitem__) == pytest.approx(0.85)
    scale.of("plan", [1, 2], run.__getitem__)
    assert asked == [6, 4]
    assert scale.factor(0.8, 0.8) == 1.0
    assert scale.factor(0.81, 0.8) == pytest.approx(1e-10) and scale.factor(0.79, 0.8) == pytest.approx(1e10)
    assert 0 < scale.factor(1e9, 0.8) < 1e-100 and np.isfinite(scale.factor(-1e9, 0.8))
