"""Int8 kernels that saturate are said, with what avoids it; here with a session that stands in for such a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import zoo

from onnx_ocs.verification import saturation as module
from onnx_ocs.verification.saturation import saturation


class Saturating:
    """A session whose outputs are off by a share of themselves, where it need not be precise."""

    def __init__(self, model: onnx.ModelProto, level: str, precise: bool) -> None:
        assert level == "enable_all"
        self.factor = 1.0 if precise else 1.0 + float(model.doc_string or 0)

    def run(self, feed: Any, names: Any = None) -> dict[str, Any]:
        return {"y": np.full(4, self.factor, np.float32), "label": np.arange(3)}


def model(off: float) -> onnx.ModelProto:
    return onnx.ModelProto(doc_string=str(off))


def test_what_saturates_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Session", Saturating)
    said = saturation(model(0.0), model(0.1), {})
    assert said is not None and "moves to 20.0 dB (the original does not)" in said and "x64quantprecision = 1" in said
    both = saturation(model(0.01 ** 0.75), model(0.1), {})
    assert both is not None and "(the original does, too, at 30.0 dB)" in both
    assert saturation(model(0.1), model(0.0), {}) is None
    assert saturation(model(0.0), model(0.001), {}) is None, "60 dB are nothing to speak of"


def test_small_weights_never_saturate() -> None:
    """Weights within 6 bits: pairs of products fit 16 bits on any CPU."""
    net, feed = zoo.build("gemm")
    for t in net.graph.initializer:
        a = onnx.numpy_helper.to_array(t)
        if a.dtype == np.int8:
            t.CopyFrom(onnx.numpy_helper.from_array((a // 2).astype(np.int8), t.name))
    assert saturation(net, net, feed) is None
