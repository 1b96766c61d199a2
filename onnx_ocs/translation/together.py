"""Decisions that each can be carried out, and not together: a bias that cannot hold what both ask of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import label
from onnx_ocs.qdq.layers import read_layer
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.producer import Early
from onnx_ocs.translation.constant import constant_of
from onnx_ocs.translation.decision import Decision
from onnx_ocs.translation.early import shift_of

__all__ = ["agreed"]

Decided = TypeVar("Decided", Decision | Refusal, Decision | Refusal | None)


def agreed(graph: Graph, decisions: Sequence[Decided]) -> list[Decided]:
    """Refuse copies of a whole range whose constant leaves a reader no room for the shift of its own copies.

    Args:
        graph: the graph, not edited.
        decisions: one for each region, each checked by itself.

    Returns:
        The decisions, some of them refused.
    """
    made = [d for d in decisions if isinstance(d, Decision) and d.mode == "early"]
    makers = {id(d.region.early.layer): d for d in made if isinstance(d.region.early, Early)}
    return [
        _crowded(graph, d, makers) or d if isinstance(d, Decision) and d.mode == "early" and d.wide.full else d
        for d in decisions
    ]


def _crowded(graph: Graph, decision: Decision, makers: dict[int, Decision]) -> Refusal | None:
    region = decision.region
    for node in region.walk.weights:
        other, layer = makers.get(id(node)), read_layer(graph, node)
        bias = None if layer is None or layer.groups != 1 else layer.bias(graph)
        if other is None or layer is None or bias is None or bias.scale is None or other.halved:
            continue
        wide = other.wide
        scale = np.broadcast_to(bias.scale, bias.value.shape)[wide.origin]
        value = bias.value.astype(np.int64) - constant_of(graph, layer, decision.wide, region.quantizer)
        value = value[wide.origin] - np.rint(shift_of(other.region, wide) / scale)
        if np.abs(value).max(initial=0) > np.iinfo(bias.value.dtype).max:
            told = f"the bias of '{label(node)}' cannot hold their constant and the shift of the copies that it makes"
            return Refusal("early_reader", told, label(node))
    return None
