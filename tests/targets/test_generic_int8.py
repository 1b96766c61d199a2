"""Hardware with integers only: what onnxruntime's quantizer makes fits it, a float activation function does not."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnx_ocs.model.graph import Graph
from onnx_ocs.targets.generic_int8 import RULES
from onnx_ocs.targets.rules import violations

DATA = Path(__file__).resolve().parents[1] / "data"


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("ort_cnn_l13_u8s8pc", set()),
        ("aimet_cnn_l17_w8a8i32bias", set()),
        ("ort_cnn_l17_qnnu16u8", {"activation type", "constant type", "zero point"}),
        ("nncf_convnext_l20_transformer", {"float", "per channel"}),
    ],
)
def test_files(name: str, broken: set[str]) -> None:
    assert {v.rule for v in violations(Graph(onnx.load(DATA / f"{name}.onnx")), RULES)} == broken
