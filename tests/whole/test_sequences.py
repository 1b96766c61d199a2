"""Graph outputs that are sequences: they are no obstacle to a rewrite, and the proof compares their tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

import onnx_ocs
from onnx_ocs.passes import Translate

MODELS = Path(__file__).resolve().parents[2] / "models"


def test_a_sequence_of_outputs() -> None:
    model = onnx.load(MODELS / "digits.w8a2.onnx")
    output = model.graph.output[0].name
    model.graph.node.append(helper.make_node("SequenceConstruct", [output, output], ["twice"], name="twice"))
    model.graph.output.append(helper.make_tensor_sequence_value_info("twice", TensorProto.FLOAT, None))
    pixels = {"pixels": np.load(MODELS / "digits.calib.npz")["pixels"][:32]}
    done = onnx_ocs.rewrite(model, calib=pixels, passes=[Translate(ratio=0.5)])
    assert done.changed and done.verification is not None and done.verification.verdict == "PASSED"
