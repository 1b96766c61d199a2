"""The route of a node behind a tensor with copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from zoo import Net, Style

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.regions.carry import Route
from onnx_ocs.regions.routes import route
from onnx_ocs.regions.wide import Wide

Array = np.ndarray[Any, Any]


Reader = Callable[[Net, str], str]


SHAPE = (4, 3, 6)  # behind the batch axis


def routed(make: Reader, layout: Wide, shape: tuple[int, ...] = SHAPE, index: int = 0) -> tuple[Route, Net, str]:
    """The route of the node that `make` puts behind a tensor of the given shape (channels on axis 1)."""
    n = Net(Style(opset=18), x=shape)
    y = make(n, n.op("Identity", "x", out="t"))
    graph = Graph(n.model(y))
    node = next(m for m in graph.nodes if "t" in m.input)
    return route(graph, node, index, layout, infer_shapes(graph.model)), n, y


def weight(n: Net, *shape: int) -> str:
    return n.const("w", n.rng.standard_normal(shape))
