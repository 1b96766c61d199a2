"""Where models are timed: the target's own runtime, if it is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import zoo

from onnx_ocs.measurement.latency import compared
from onnx_ocs.targets import choice
from onnx_ocs.targets.timing import ONNXRUNTIME, OPENVINO, Timing, timing_of


def test_openvino_times_its_own_files_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda name: object() if name == "openvino" else None)
    assert timing_of("openvino") is OPENVINO
    assert {timing_of(r) for r in ("ort", "tensorrt", "qnn", "generic-int8")} == {ONNXRUNTIME}
    monkeypatch.setattr(choice, "find_spec", lambda _: None)
    assert timing_of("openvino") is ONNXRUNTIME


def test_what_is_timed_runs_where_it_is_said() -> None:
    model, feed = zoo.build("residual")
    ran: list[int] = []

    def load(m: onnx.ModelProto) -> Any:
        return lambda given: ran.append(len(m.graph.node)) or np.testing.assert_equal(given, feed)

    found = compared(model, model, feed, 0.0, Timing("a clock", load))
    assert found is not None and found.runtime == "a clock" and ran
    assert compared(model, model, feed, 0.0).runtime == "onnxruntime"  # type: ignore[union-attr]


def test_both_runtimes_time_the_same_model() -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install '.[runtimes]'")
    model, feed = zoo.build("residual")
    one = {k: v[:1] for k, v in feed.items()}
    for on in (ONNXRUNTIME, OPENVINO):
        found = compared(model, model, one, 0.2, on)
        assert found is not None and found.runtime == on.name and 0.3 < found.ratio < 3
