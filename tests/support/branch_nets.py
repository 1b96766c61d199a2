"""A branch with random weights, networks that take one, and what a model shows of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper
from zoo import Net, Style

from onnx_ocs.compensation.blocks import Block
from onnx_ocs.compensation.insert import insert
from onnx_ocs.compensation.regression import Branch
from onnx_ocs.model.edit import EditableGraph

Built = tuple[onnx.ModelProto, Block]


def branched(net: Callable[[Style], Built], form: str = "dense") -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A network, and the same with a branch at its block."""
    model, block = net(Style(opset=17))
    new = onnx.ModelProto()
    new.CopyFrom(model)
    graph = EditableGraph(new)
    regressors = [] if form == "bias" else [block.output, str(block.input)]
    sizes = (block.channels, block.input_channels)
    branch = some_branch(form, (0, 1)[: len(regressors)], sizes, True)
    insert(graph, block, branch, regressors, len(block.strides) + 2)
    graph.commit()
    return model, new


def signature(model: onnx.ModelProto) -> list[Any]:
    values = [v.SerializeToString(deterministic=True) for v in (*model.graph.input, *model.graph.output)]
    return [*values, [(o.domain, o.version) for o in model.opset_import]]


def some_branch(form: str, which: tuple[int, ...], sizes: tuple[int, int], nonlinear: bool, seed: int = 0) -> Branch:
    """A branch with random weights; regressor 0 is the output, 1 the input."""
    rng = np.random.default_rng(seed)
    c, rank = sizes[0], 2
    back = None
    if form == "bias":
        weights: tuple[np.ndarray, ...] = ()
    elif form == "diagonal":
        weights = tuple(rng.standard_normal(c) for _ in which)
    elif form == "grouped":
        weights = tuple(rng.standard_normal((GROUPS, sizes[k] // GROUPS, c // GROUPS)) for k in which)
    elif form == "low rank":
        weights, back = tuple(rng.standard_normal((sizes[k], rank)) for k in which), rng.standard_normal((rank, c))
    else:
        weights = tuple(rng.standard_normal((sizes[k], c)) for k in which)
    nonlinear = nonlinear and form != "bias"
    alphas = tuple(0.4 + k if nonlinear else 0.0 for k in which)
    beta, low, high = (1.3, -0.9, 1.1) if nonlinear else (0.0, -0.6, 0.7)
    return Branch(
        form, which, alphas, beta, weights, back, 0.1 * rng.standard_normal(c), low, high, tuple(1.5 for _ in which)
    )


def image_net(style: Style) -> tuple[onnx.ModelProto, Block]:
    """4D; the block's input has another size."""
    n = Net(style, x=(3, 9, 9))
    a = n.qdq(n.conv(n.qdq("x", "mid"), 8), "mid")
    y = n.conv(a, 8)
    n.nodes[-1].attribute.append(helper.make_attribute("strides", [2, 2]))
    out = n.conv(n.qdq(y, "mid"), 4)
    return n.model(out), Block("layer", y, 1, 8, "conv1", (2, 2), 8)


def token_net(style: Style) -> tuple[onnx.ModelProto, Block]:
    """3D, channels last."""
    n = Net(style, x=(5, 12))
    a = n.matmul(n.qdq("x", "mid"), 8)
    y = n.matmul(n.qdq(a, "mid"), 8)
    return n.model(n.matmul(n.qdq(y, "mid"), 4)), Block("layer", y, 2, 8, a, (1,), 8)


def plane_net(style: Style) -> tuple[onnx.ModelProto, Block]:
    """4D, channels last."""
    n = Net(style, x=(3, 4, 12))
    a = n.matmul(n.qdq("x", "mid"), 8)
    y = n.matmul(n.qdq(a, "mid"), 8)
    return n.model(n.matmul(n.qdq(y, "mid"), 4)), Block("layer", y, 3, 8, a, (1, 1), 8)


def matrix_net(style: Style) -> tuple[onnx.ModelProto, Block]:
    """2D; the output is a graph output."""
    n = Net(style, x=(12,))
    a = n.gemm(n.qdq("x", "mid"), 8)
    y = n.gemm(n.qdq(a, "mid"), 8)
    n.gemm(n.qdq(y, "mid"), 4)
    return n.model("gemm3", y), Block("layer", y, 1, 8, a, (), 8)


def captured_net(style: Style) -> tuple[onnx.ModelProto, Block]:
    """3D, channels second; a subgraph reads the output."""
    n = Net(style, x=(3, 10))
    a = n.qdq(n.conv(n.qdq("x", "mid"), 8), "mid")
    y = n.conv(a, 8)
    value = helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, ["N", 8, 10])
    body = helper.make_graph([helper.make_node("Neg", [y], ["inner"])], "body", [], [value])
    z = n.op("If", n.const("condition", True, np.bool_), then_branch=body, else_branch=body)
    return n.model(n.op("Add", n.conv(n.qdq(y, "mid"), 8), z), z), Block("layer", y, 1, 8, "conv1", (1,), 8)


GROUPS = 4
