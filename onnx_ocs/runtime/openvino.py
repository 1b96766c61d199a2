"""OpenVINO's CPU plugin, to run and time models in it: `pip install openvino`, which nothing else here needs.

One thread and one stream, in which the calling thread computes; float32 where a model is not quantized.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock

import numpy as np
import onnx
from google.protobuf.message import EncodeError

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

        self._outputs, self._turn = [o.name for o in model.graph.output], Lock()
        core = openvino.Core()
        try:
            read = core.read_model(_whole(model).SerializeToString())
            compiled = core.compile_model(read, "CPU", OPTIONS)
        except (RuntimeError, ValueError, EncodeError) as e:  # all that it raises; more than 2 GB
            raise UserError(f"OpenVINO does not load the model: {_reason(e)}") from None
        names = [i.name for i in model.graph.input]
        taken: set[str] = set().union(*(port.get_names() for port in compiled.inputs))
        self.inputs = [i for i in names if i in taken]  # without those that nothing reads
        self._request = compiled.create_infer_request()

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
            raise UserError(f"OpenVINO does not run the model: {_reason(e)}") from None
        return {name: np.asarray(found[k]) for k, name in enumerate(self._outputs)}


def _reason(e: Exception) -> str:
    """What went wrong: the last line that says something, behind those that say in which of its files."""
    lines = [line.strip() for line in str(e).splitlines()]
    told = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return first_line(ValueError(told[-1])) if told else first_line(e)


def _whole(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with all its tensors inside."""
    if not tensors.has_side_files(model):
        return model
    new = onnx.ModelProto()
    new.CopyFrom(model)
    for t in tensors.all_tensors(new):
        t.CopyFrom(tensors.inlined(t))
    return new
