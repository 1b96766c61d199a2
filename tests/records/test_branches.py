"""What a branch says of itself: its arithmetic, its record, and how it is taken out again."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from zoo import execute

from onnx_ocs.errors import UserError
from onnx_ocs.model.graph import Graph
from onnx_ocs.records.branches import (
    RECORD,
    blt,
    digest,
    inverse_blt,
    read_branches,
    strip,
    thinned,
)


@pytest.mark.parametrize("alpha", [0.0, 1e-3, 1.0, 50.0])
def test_the_transform_is_odd_and_undone(alpha: float) -> None:
    x = np.linspace(-4, 4, 41)
    z = blt(x, alpha)
    np.testing.assert_allclose(z, -blt(-x, alpha))
    np.testing.assert_allclose(inverse_blt(z, alpha), x, rtol=1e-12, atol=1e-14)
    if alpha:
        np.testing.assert_allclose(z, np.sign(x) * np.log(1 + alpha * np.abs(x)))


def test_every_strides_th_position() -> None:
    x = np.arange(2 * 3 * 5 * 6).reshape(2, 3, 5, 6)
    np.testing.assert_array_equal(thinned(x, (2, 3)), x[:, :, ::2, ::3])
    assert thinned(x, ()) is x and thinned(x, (1, 1)) is x


ENTRY: dict[str, Any] = {
    "output": "y", "before": "y_before", "after": "y", "regressors": ["y_before"], "form": "dense", "rank": 0,
    "groups": 1, "alpha": [0.5], "beta": 0, "low": 0, "high": 1, "reach": 1, "strides": [], "axis": 1,
    "weights": ["w"], "back": None, "bias": "b",
}  # fmt: skip


def branched(text: str | None = None, renamed: bool = False) -> onnx.ModelProto:
    """x -> Relu -> y, corrected by x * w + b; `y` is the corrected value, or (renamed) the uncorrected one."""
    before, after = ("y", "y_after") if renamed else ("y_before", "y")
    entry = ENTRY | {"before": before, "after": after, "regressors": [before]}
    nodes = [
        helper.make_node("Relu", ["x"], [before]),
        helper.make_node("Mul", [before, "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["correction"]),
        helper.make_node("Add", [before, "correction"], [after]),
        helper.make_node("Neg", [after], ["z"]),
    ]
    nodes[3].metadata_props.add(key=RECORD, value=json.dumps(entry) if text is None else text)
    values = [helper.make_tensor_value_info(t, TensorProto.FLOAT, [2, 3]) for t in ("x", "z")]
    constants = [numpy_helper.from_array(np.full(3, v, np.float32), k) for k, v in (("w", 0.5), ("b", 0.1))]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("renamed", [False, True])
def test_a_branch_is_read_and_taken_out(renamed: bool) -> None:
    model = branched(renamed=renamed)
    (b,) = read_branches(model)
    assert (b.output, b.before, b.after) == (("y", "y", "y_after") if renamed else ("y", "y_before", "y"))
    assert b.regressors == (b.before,) and b.entry["alpha"] == [0.5]
    old = model.SerializeToString()
    plain = strip(model)
    assert model.SerializeToString() == old
    assert [(n.op_type, list(n.input), list(n.output)) for n in plain.graph.node] == [
        ("Relu", ["x"], ["y"]),
        ("Neg", ["y"], ["z"]),
    ]
    assert not plain.graph.initializer and read_branches(plain) == []
    x = np.asarray([[-1, 2, 3], [4, -5, 6]], np.float32)
    np.testing.assert_array_equal(execute(plain, {"x": x})[0], -np.maximum(x, 0))
    np.testing.assert_allclose(execute(model, {"x": x})[0], -(1.5 * np.maximum(x, 0) + 0.1), rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("no json", "no readable record"),
        ("[]", "no readable record"),
        (json.dumps({k: v for k, v in ENTRY.items() if k != "before"}), "no readable record"),
        (json.dumps({k: v for k, v in ENTRY.items() if k != "rank"}), "a damaged record"),
        (json.dumps(ENTRY | {"alpha": ["much"]}), "a damaged record"),
        (json.dumps(ENTRY | {"after": "elsewhere"}), "a damaged record"),
    ],
)
def test_damage_is_said(text: str, why: str) -> None:
    with pytest.raises(UserError, match=f"the branch at 'y' has {why}"):
        read_branches(branched(text))


def test_the_digest_sees_record_and_constants() -> None:
    model = branched()
    (b,) = read_branches(model)
    plain = digest(b.entry, Graph(model))
    assert digest(b.entry | {"digest": plain}, Graph(model)) == plain  # it is not of itself
    assert digest(b.entry | {"beta": 1}, Graph(model)) != plain
    for name in ("w", "b"):
        other = branched()
        t = next(t for t in other.graph.initializer if t.name == name)
        t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t) + np.float32(1e-6), name))
        assert digest(b.entry, Graph(other)) != plain
        other.graph.initializer.remove(t)
        with pytest.raises(KeyError, match=name):
            digest(b.entry, Graph(other))
