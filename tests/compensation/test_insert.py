"""Branches in a graph: what they compute in every form, layout and opset, and how they are taken out."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import zoo
from branch_nets import GROUPS, captured_net, image_net, matrix_net, plane_net, signature, some_branch, token_net
from feeds import inputs
from onnx import helper
from zoo import Style

from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.compensation.blocks import Block
from onnx_ocs.compensation.insert import insert
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.records.branches import digest, read_branches, strip
from onnx_ocs.verification.branches import check_branches

NETS = [image_net, token_net, plane_net, matrix_net, captured_net]


STYLES = [Style(opset=10, per_channel=False), Style(opset=13), Style(opset=21)]


FORMS = [("bias", ()), ("diagonal", (0,)), ("diagonal", (0, 1)), ("grouped", (0,)), ("grouped", (0, 1)),
         ("low rank", (0,)), ("low rank", (0, 1)), ("dense", (0,)), ("dense", (1,)), ("dense", (0, 1))]  # fmt: skip


@pytest.mark.parametrize("style", STYLES, ids=lambda s: f"opset{s.opset}")
@pytest.mark.parametrize("net", NETS)
def test_what_branches_compute(net: Callable[[Style], tuple[onnx.ModelProto, Block]], style: Style) -> None:
    model, block = net(style)
    signed = signature(model)
    feed = {k: v[:3] for k, v in inputs(model, 3).items()}
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    watch = [block.output, str(block.input)]
    plain.graph.output.extend(
        onnx.ValueInfoProto(name=t) for t in watch if t not in {o.name for o in model.graph.output}
    )
    names = [o.name for o in plain.graph.output]
    values = dict(zip(names, zoo.execute(plain, feed), strict=True))
    y, x = values[watch[0]], values[watch[1]]
    for (form, which), nonlinear in [(f, k) for f in FORMS for k in (False, True)]:
        if form == "grouped" and y.ndim == 2:
            continue
        branch = some_branch(form, which, (8, 8), nonlinear)
        new = onnx.ModelProto()
        new.CopyFrom(model)
        graph = EditableGraph(new)
        done = insert(graph, block, branch, [watch[k] for k in which], y.ndim)
        graph.commit()
        onnx.checker.check_model(new, full_check=True)
        assert signature(new) == signed
        thin = x[(slice(None), slice(None), *(slice(None, None, s) for s in block.strides))] if block.axis == 1 else x
        rows = [np.moveaxis(v, block.axis, -1).reshape(-1, 8).astype(np.float64) for v in (y, thin)]
        added = branch.predict([rows[k] for k in which])
        moved = np.moveaxis(y, block.axis, -1)
        assert done.entry["groups"] == {"diagonal": 8, "grouped": GROUPS}.get(form, 1)
        if form == "grouped":
            kernels = [n for n in new.graph.node if n.op_type == "Conv" and "_nbc_" in n.output[0]]
            assert [helper.get_node_attr_value(n, "group") for n in kernels] == [GROUPS] * len(which)
        expected = np.moveaxis(np.broadcast_to(added, (moved.size // 8, 8)).reshape(moved.shape), -1, block.axis) + y
        asked = copy.deepcopy(new)
        if done.after not in {o.name for o in new.graph.output}:
            asked.graph.output.append(onnx.ValueInfoProto(name=done.after))
        for level in ("disable_all", "enable_all"):
            got = dict(zip([o.name for o in asked.graph.output], zoo.execute(asked, feed, level), strict=True))
            np.testing.assert_allclose(got[done.after], expected, atol=2e-5, err_msg=f"{form} {which} {level}")
            if net is captured_net:
                inner = next(o for o in got if o.startswith("if"))
                np.testing.assert_allclose(got[inner], -expected, atol=2e-5)
        assert check_branches(new, random_samples(new, 2, 0), 2, 0) == []
        again = zoo.execute(strip(new), feed)
        for a, b in zip(again, zoo.execute(model, feed), strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_record_says_what_was_inserted() -> None:
    model, block = image_net(Style(opset=17))
    branch = some_branch("low rank", (0, 1), (8, 8), True)
    graph = EditableGraph(model)
    now = insert(graph, block, branch, [block.output, str(block.input)], 4)
    assert (now.output, now.before, now.after) == ("conv2", "conv2", "conv2_compensated")
    assert now.regressors == ("conv2", "conv1")
    graph.commit()
    (read,) = read_branches(model)
    assert read == now
    e = read.entry
    assert (e["form"], e["rank"], e["strides"], e["axis"]) == ("low rank", 2, [2, 2], 1)
    assert e["alpha"] == [0.4, 1.4] and (e["beta"], e["low"], e["high"]) == (1.3, -0.9, 1.1)
    assert e["digest"] == digest(e, EditableGraph(model))


def test_a_graph_outputs_name_stays_with_the_corrected_value() -> None:
    model, block = matrix_net(Style(opset=17))
    graph = EditableGraph(model)
    now = insert(graph, block, some_branch("bias", (), (8, 8), False), [], 2)
    assert (now.before, now.after) == ("gemm2_uncompensated", "gemm2")
    graph.commit()
    assert [o.name for o in model.graph.output] == ["gemm3", "gemm2"]
