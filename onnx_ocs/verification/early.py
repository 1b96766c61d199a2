"""Copies that the producer makes: what the nodes between a layer and a quantizer must hold.

A layer repeats its rows, and the last node with constants per channel (the layer itself, an Add or a
BatchNormalization) subtracts i * X_clip from copy i.  The function in front of the quantizer is one for which
Q(f(y - i X_clip)) = Q(relu(f(y) - i X_clip)):

    ReLU                       for every quantizer
    Clip(0, B)                 where B is not below what the copies hold together
    none                       where each copy holds a whole range, shifted by i * (X_clip + X_low)
    none, LeakyReLU, PReLU, ELU, Clip(lo < 0, B)      where zero_point = qmin
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, attribute, is_op
from onnx_ocs.probes.rescaled import Steps
from onnx_ocs.qdq.intervals import clip_bounds
from onnx_ocs.qdq.layers import LAYERS
from onnx_ocs.verification.constants import Constants
from onnx_ocs.verification.layers import Demand
from onnx_ocs.verification.values import Differs, Layout, Shifted

__all__ = ["demands", "through"]

FUNCTIONS = ("Relu", "Clip", "LeakyRelu", "PRelu", "Elu")


def demands(before: Graph, after: Graph, layouts: Mapping[str, tuple[str, Layout]], steps: Steps) -> dict[str, Demand]:
    """What layers, and nodes behind them, must write for the quantizers that declare copies.

    Args:
        before: the original.
        after: the rewritten model.
        layouts: the declared channels.
        steps: the original's quantizers with the declared steps.

    Returns:
        By the original's tensor.
    """
    found: dict[str, Demand] = {}
    for name, (now, layout) in layouts.items():
        old, source = before.producer[name], steps.integers.get(name)
        if source is None or after.producer[now].input[0] != old.input[0]:
            continue  # copies made by nodes that were added
        chain = _chain(before, old.input[0])
        size = source.now.x_clip + source.now.x_low if layout.full else source.now.x_clip
        size = np.broadcast_to(size, (layout.narrow,))[layout.origin]
        amount = np.zeros(layout.origin.size) if layout.halved else layout.level * size
        for k, n in enumerate(chain):
            found.setdefault(n.output[0], Demand(layout, amount, k == 0))
    return found


def _chain(graph: Graph, tensor: str) -> list[NodeProto]:
    """The nodes with constants per channel in front of a quantizer, from it back to a layer; empty if there is none."""
    n = graph.producer.get(tensor)
    if is_op(n, *FUNCTIONS) and n is not None:
        n = graph.producer.get(n.input[0])
    chain: list[NodeProto] = []
    while n is not None and len(chain) < 64:
        if is_op(n, *LAYERS):
            return chain if is_op(n, "MatMul") and not chain else [*chain, n]
        if is_op(n, "BatchNormalization") and all(graph.is_constant(t) for t in n.input[1:5]):
            chain.append(n)
            n = graph.producer.get(n.input[0])
        elif is_op(n, "Add") and sum(graph.is_constant(t) for t in n.input) == 1:
            chain.append(n)
            n = graph.producer.get(next(t for t in n.input if not graph.is_constant(t)))
        else:
            break
    return []


def through(
    constants: Constants, new: NodeProto, old: NodeProto, index: int, form: Shifted, demand: Demand | None
) -> Shifted:
    """What a node writes that reads repeated rows.

    Args:
        constants: of both models.
        new: the node in the rewritten model.
        old: the node in the original.
        index: which input the rows are.
        form: the rows.
        demand: what it must write.

    Raises:
        Differs: a constant of it is not what it should be, or it cannot stand there.
    """
    if is_op(old, *FUNCTIONS) and index == 0:
        return _function(constants, new, old, form)
    if demand is None or not (is_op(old, "Add") or (is_op(old, "BatchNormalization") and index == 0)):
        raise Differs(f"{old.op_type} cannot stand between a layer and the quantizer of its copies")
    plain = np.array_equal(form.origin, demand.layout.origin) and not form.shift.any() and not form.side.any()
    if not plain or not np.array_equal(form.factor, demand.factor):
        raise Differs("it reads other channels than its quantizer declares")
    if is_op(old, "Add"):
        _constant(constants, new, old, 1 - index, form, demand.shift, demand)
    else:
        form = replace(form, behind=0)
        for k in range(1, 5):  # scale, bias, mean, variance
            shift = demand.shift if k == 2 else np.zeros_like(demand.shift)
            _constant(constants, new, old, k, form, shift, demand if k in (2, 3) else None)
        return demand.rows(form.axis, form.behind)
    return demand.rows(form.axis, form.behind)


def _constant(
    constants: Constants, new: NodeProto, old: NodeProto, k: int, form: Shifted, shift: Array, demand: Demand | None
) -> None:
    """A constant per channel: repeated, halved where channels are, and shifted."""
    value = constants.value(constants.before, old.input[k])
    count = int(form.origin.max(initial=0)) + 1
    if value.size == 1:
        value = np.full((count, *[1] * form.behind), value.reshape(()), value.dtype)
    axis = value.ndim - 1 - form.behind
    if axis < 0 or value.size != value.shape[axis]:
        raise Differs("its constant does not lie along the channels")
    expected = np.take(value, form.origin, axis=axis)
    shape = [1] * expected.ndim
    shape[axis] = -1
    if demand is not None:
        expected = (expected * demand.factor.reshape(shape)).astype(value.dtype)
    if shift.any():
        expected = (expected.astype(np.float64) - shift.reshape(shape)).astype(value.dtype)
    constants.equal(new.input[k], expected)


def _function(constants: Constants, new: NodeProto, old: NodeProto, form: Shifted) -> Shifted:
    graph = constants.before
    if form.side.any() or np.any(form.shift < 0):
        raise Differs("it reads rows that were rectified already")
    zero, ceiling = False, np.inf
    if old.op_type == "Clip":
        lo, hi = clip_bounds(graph, old)
        if np.isnan(lo) or lo > 0 or not hi > 0:
            raise Differs(f"a Clip from {lo:g} to {hi:g} does not act as a ReLU")
        zero, ceiling = lo == 0, float(hi)
    elif old.op_type == "Relu":
        zero = True
    elif old.op_type == "PRelu":
        slope = constants.value(graph, old.input[1])
        if np.any(slope < 0):
            raise Differs("a PRelu with a negative slope is positive below zero")
    elif float(attribute(old, "alpha", 1.0 if old.op_type == "Elu" else 0.01)) < 0:
        raise Differs(f"{old.op_type} with a negative alpha is positive below zero")
    if old.op_type == "PRelu" and constants.value(graph, old.input[1]).size > 1:
        _constant(constants, new, old, 1, form, np.zeros_like(form.shift), None)
    else:
        for t, u in zip(new.input[1:], old.input[1:], strict=True):
            if t or u:
                constants.same(t, u)
    side = np.where(zero & (form.shift > 0), 1, 0)
    return replace(form, side=side, ceiling=min(form.ceiling, ceiling), rectify=form.rectify or not zero)
