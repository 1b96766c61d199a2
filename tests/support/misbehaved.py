"""A pass of another package that goes wrong."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_ocs.calibration.context import Context
from onnx_ocs.passmanager import PassResult

Model = onnx.ModelProto


def constant(model: Model, node: str, index: int) -> onnx.TensorProto:
    """The initializer behind an input of a node (through its DequantizeLinear)."""
    producer = {o: n for n in model.graph.node for o in n.output}
    name = next(n for n in model.graph.node if n.name == node).input[index]
    while name in producer:
        name = producer[name].input[0]
    return next(t for t in model.graph.initializer if t.name == name)


def edit_array(tensor: onnx.TensorProto, edit: Callable[[np.ndarray], object]) -> None:
    array = numpy_helper.to_array(tensor).copy()
    edit(array)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def weight_column(m: Model) -> None:
    edit_array(constant(m, "/block2/second/Conv", 1), lambda a: a[:, -1].fill(0))


@dataclass(frozen=True)
class Misbehaved:
    """Does the given thing to the model; says that it changed it, the first time only."""

    what: Callable[[Model], None] = weight_column
    stops: bool = True

    name: ClassVar[str] = "misbehaved"
    version: ClassVar[str] = "1"

    def run(self, model: Model, context: Context) -> PassResult:
        if self.stops and any(p.key == "done" for p in model.metadata_props):
            return PassResult(False)
        self.what(model)
        model.metadata_props.add(key="done")
        return PassResult(True)
