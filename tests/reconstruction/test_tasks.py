"""What is fitted at once, and what waits."""

from __future__ import annotations

import pytest
from onnx import ModelProto
from zoo import Net, Style, build

from onnx_ocs.model.graph import Graph
from onnx_ocs.reconstruction import tasks as module
from onnx_ocs.reconstruction.find import find_maps
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.reconstruction.pairing import Pair
from onnx_ocs.reconstruction.tasks import Fitted, Task, leave, prepare, stages


def tasks_of(model: ModelProto, left: int | None = None) -> tuple[list[Fitted], list[Task], list[list[list[int]]]]:
    """All layers, aiming at themselves; `left`: the one that aims at nothing."""
    graph = Graph(model)
    fitted = [Fitted(f) for f in find_maps(graph) if isinstance(f, LinearMap)]
    pairs = [None if k == left else Pair(f.layer.y, False, None, None) for k, f in enumerate(fitted)]
    tasks = prepare(graph, fitted, pairs)
    return fitted, tasks, [[[t.number for t in g] for g in s] for s in stages(graph, tasks)]


def heads() -> Net:
    """A pyramid: one weight reads the input and, two layers later, what was made of it; and something behind each."""
    n = Net(Style(bias="none"), x=(4, 5, 5))
    x = n.qdq("x", "mid")
    one = n.conv(x, 4)  # 0
    weight = n.nodes[-1].input[1]
    deep = n.qdq(n.conv(n.qdq(n.conv(x, 4), "mid"), 4), "mid")  # 1, 2
    two = n.conv(deep, 4, weight=weight)  # 3
    for k, y in enumerate((one, two)):
        n.op("Relu", n.conv(n.qdq(y, "mid"), 4), out=f"head{k}")  # 4, 5
    return n


def test_layers_wait_for_those_before_them() -> None:
    assert tasks_of(build("three_layers")[0])[2] == [[[0]], [[1]], [[2]]]
    assert tasks_of(build("concat_wide")[0])[2] == [[[0], [1]], [[2]]]


def test_layers_that_share_a_weight_wait_for_each_other() -> None:
    """And what stands behind the first of them waits, too."""
    assert tasks_of(heads().model("head0", "head1"))[2] == [[[1]], [[2]], [[0, 3]], [[4], [5]]]


def test_without_one_of_them_none_is_fitted() -> None:
    fitted, tasks, found = tasks_of(heads().model("head0", "head1"), left=3)
    assert [f.why and f.why[0] for f in fitted] == ["weight_shared", None, None, "no_target", None, None]
    assert len(tasks) == 4 and found == [[[1], [4]], [[2]], [[5]]]


def test_those_that_stand_one_behind_the_other_are_left() -> None:
    n = heads()
    n.op("Relu", n.conv(n.qdq("head1", "mid"), 4, weight="conv1_w_dq"), out="again")
    fitted, _, found = tasks_of(n.model("head0", "again"))
    assert [k for k, f in enumerate(fitted) if f.why] == [0, 3, 6] and found == [[[1], [4]], [[2]], [[5]]]


def test_what_was_said_first_stays() -> None:
    fitted, tasks, _ = tasks_of(build("three_layers")[0])
    leave(tasks[:1], "few_rows", "one")
    leave(tasks, "no_gain", "other")
    assert [f.why for f in fitted] == [("few_rows", "one"), ("no_gain", "other"), ("no_gain", "other")]


def test_what_takes_much_memory_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers side by side, with room for one: one after the other, and the same values in the end."""
    assert tasks_of(build("concat_wide")[0])[2] == [[[0], [1]], [[2]]]
    tasks = tasks_of(build("concat_wide")[0])[1]
    k, m = tasks[0].layer.columns.shape[1], tasks[0].layer.rows.size
    assert tasks[0].bytes == 3 * 8 * (k * k + m * k), "inputs with inputs, and outputs with inputs, in three folds"
    monkeypatch.setattr(module, "STAGE", tasks[0].bytes)
    assert tasks_of(build("concat_wide")[0])[2] == [[[0]], [[1]], [[2]]]
    assert tasks_of(heads().model("head0", "head1"))[2] == [[[1]], [[2]], [[0, 3]], [[4]], [[5]]]


def test_what_is_shared_by_too_many_layers_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unrolled recurrent network: the moments of all its steps would have to be held at once."""
    monkeypatch.setattr(module, "SHARED", 2 * tasks_of(heads().model("head0", "head1"))[1][0].bytes - 1)
    fitted, _, found = tasks_of(heads().model("head0", "head1"))
    assert [f.why and f.why[0] for f in fitted] == ["weight_shared", None, None, "weight_shared", None, None]
    assert "2 layers read the weight" in (fitted[0].why or ("", ""))[1] and found == [[[1], [4]], [[2]], [[5]]]
