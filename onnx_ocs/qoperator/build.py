"""The graph that a conversion writes: nodes in order, constants, and names that nobody has yet."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.names import Names
from onnx_ocs.model.nodes import Array

__all__ = ["Builder", "NoForm"]

AXIS_SINCE = 13  # operator set from which DequantizeLinear has an axis


class NoForm(Exception):
    """A node that no Q, DQ and float operators are the same as; the message says why."""


class Builder:
    """Writes what takes the place of integer operators.

    Attributes:
        graph: the file as it is.
        nodes: what was written so far.
        added: constants.
        contrib: whether a node of com.microsoft was written.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[NodeProto] = []
        self.added: list[onnx.TensorProto] = []
        self.contrib = False
        self.names = Names(graph.initializers, graph.producer, (i.name for i in graph.model.graph.input))
        self._values: dict[str, Array] = {}  # of `added`
        self._dequantized: dict[tuple[Any, ...], str] = {}

    def constant(self, like: str, value: Array) -> str:
        """Add a constant."""
        name = self.names.fresh(like)
        self._values[name] = np.asarray(value, order="C")
        self.added.append(numpy_helper.from_array(self._values[name], name))
        return name

    def value(self, tensor: str, what: str) -> Array:
        """A constant, of the file or added.

        Raises:
            NoForm: it is computed.
        """
        found = self._values.get(tensor)
        if found is None and tensor:
            found = self.graph.constant(tensor)
        if found is None:
            raise NoForm(f"its {what} is computed at run time")
        return found

    def dequantize(self, integers: str, scale: str, zero: str, axis: int = 0) -> str:
        """The floats that integers stand for; one DequantizeLinear for all who read them alike."""
        key = integers, scale, zero, axis
        if key not in self._dequantized:
            steps = self.value(scale, "scale")
            along, domain = {}, ""
            if steps.size > 1:
                along = {"axis": axis}
                if self.graph.opset < AXIS_SINCE:
                    self.contrib, domain = True, "com.microsoft"
            out = self.names.fresh(f"{integers}_dequantized")
            inputs = [integers, scale, zero] if zero else [integers, scale]
            self.node("DequantizeLinear", inputs, out, f"{integers}/DequantizeLinear", along, domain)
            self._dequantized[key] = out
        return self._dequantized[key]

    def quantize(self, floats: str, scale: str, zero: str, out: str) -> None:
        """The integers that take the place of a node's output.

        Raises:
            NoForm: the type of the integers is not said.
        """
        if not zero:
            raise NoForm("its output has no zero-point")
        if self.value(scale, "output's scale").size != 1:
            raise NoForm("its output has more than one scale")
        self.value(zero, "output's zero-point")
        self.node("QuantizeLinear", [floats, scale, zero], out, f"{out}/QuantizeLinear", {})

    def node(
        self, op: str, inputs: list[str], out: str, name: str, attributes: dict[str, Any], domain: str = ""
    ) -> str:
        """Write a node; what it writes."""
        self.nodes.append(helper.make_node(op, inputs, [out], name=name, domain=domain, **attributes))
        return out
