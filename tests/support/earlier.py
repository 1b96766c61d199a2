"""Files as an earlier version wrote them: depthwise layers filter every copy, and the sums are formed behind them."""

from __future__ import annotations

import numpy as np
import onnx

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.nodes import attribute, is_op
from onnx_ocs.qdq.bias import read_bias, write_bias
from onnx_ocs.qdq.weights import read_weight, take
from onnx_ocs.records.layouts import read_layouts
from onnx_ocs.regions.wide import Wide
from onnx_ocs.translation.foldback import fold


def filtered(model: onnx.ModelProto) -> onnx.ModelProto:
    """A rewritten model in that form."""
    new = onnx.ModelProto()
    new.CopyFrom(model)
    graph = EditableGraph(new)
    wide = {d.output[0]: w for now, w in read_layouts(new).values() for d in graph.readers(now)}
    for n in graph.nodes:
        weight = read_weight(graph, n, 1) if is_op(n, "Conv") else None
        groups, source = int(attribute(n, "group", 1)), n.input[0]
        if weight is None or groups == 1:
            continue
        while source not in wide and is_op(graph.producer.get(source), "Gather", "Concat", "Add"):
            source = graph.producer[source].input[0]
        if source not in wide or wide[source].narrow != groups:
            continue
        rows, levels = wide[source].spread(weight.shape[0] // groups)
        take(graph, n, 1, 0, rows)
        next(a for a in n.attribute if a.name == "group").i = wide[source].origin.size
        bias = read_bias(graph, n, 2, weight.shape[0])
        if bias is not None and bias.kind != "none":
            value = np.where(levels == 0, bias.value[rows], 0).astype(bias.value.dtype)
            write_bias(graph, n, 2, bias, value, rows)
        graph.set_input(n, 0, source)
        out = str(n.output[0])
        graph.rename_output(out, graph.fresh(out + "_wide"))
        fold(graph, n.output[0], out, Wide(1, rows, levels, weight.shape[0], None, halved=wide[source].halved), 2)
    graph.commit()
    return new
