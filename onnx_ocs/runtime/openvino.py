"""OpenVINO's CPU plugin, to run and time models in it: `pip install openvino`, which nothing else here needs.

One thread and one stream, in which the calling thread computes; float32 where a model is not quantized.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock

import numpy as np
import onnx

from onnx_ocs.errors import UserError, first_line
from onnx_ocs.model import tensors
from onnx_ocs.model.nodes import Array

__all__ = ["Compiled"]

OPTIONS = {
    "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32",
}  # fmt: skip


class Compiled:
    """One model in OpenVINO's CPU plugin; threads take turns.

    Attributes:
        inputs: names of what is fed.

    Raises:
        UserError: it does not load the model.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Load a model; what its side files hold is taken into memory."""
        import openvino

        known = {t.name for t in model.graph.initializer}
        self.inputs = [i.name for i in model.graph.input if i.name not in known]
        self._outputs, self._turn = [o.name for o in model.graph.output], Lock()
        core = openvino.Core()
        try:
            read = core.read_model(_whole(model).SerializeToString())
            self._request = core.compile_model(read, "CPU", OPTIONS).create_infer_request()
        except RuntimeError as e:  # all that it raises
            raise UserError(f"OpenVINO does not load the model: {first_line(e)}") from None

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs for one feed; what else it holds is not looked at.

        Raises:
            UserError: it does not run.
        """
        missing = ", ".join(f"'{i}'" for i in self.inputs if i not in feed)
        if missing:
            raise UserError(f"OpenVINO does not run the model: nothing is fed to {missing}")
        try:
            with self._turn:
                found = self._request.infer({i: feed[i] for i in self.inputs})
        except (RuntimeError, TypeError) as e:
            raise UserError(f"OpenVINO does not run the model: {first_line(e)}") from None
        return {name: np.asarray(found[k]) for k, name in enumerate(self._outputs)}


def _whole(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with all its tensors inside."""
    if not tensors.has_side_files(model):
        return model
    new = onnx.ModelProto()
    new.CopyFrom(model)
    for t in tensors.all_tensors(new):
        t.CopyFrom(tensors.inlined(t))
    return new
