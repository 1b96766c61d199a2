"""Branches fitted block by block: on some batches, judged on others, within a budget."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from feeds import inputs
from topologies import resnet
from zoo import Style

from onnx_ocs.compensation.blocks import find_blocks
from onnx_ocs.compensation.fitting import Fitting
from onnx_ocs.compensation.ground_truth import Truth
from onnx_ocs.compensation.menu import Menu
from onnx_ocs.measurement.yardstick import Output
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.probes.reference import reference
from onnx_ocs.regions.find import find_regions

Array = np.ndarray[Any, Any]
MACS = 100_000
OUTPUT = Output("gemm1", "gemm1")
LARGE = 1 << 40


def batches(model: onnx.ModelProto, count: int) -> Iterator[dict[str, Array]]:
    """Batches of eight samples."""
    feed = inputs(model, 8 * count)
    return ({k: v[8 * i : 8 * i + 8] for k, v in feed.items()} for i in range(count))


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    """Activations of 2 bits: there is much to mend."""
    return resnet(Style(bits=2)).model("gemm1")


def prepared(net: onnx.ModelProto, folder: Path, count: int, most: int = LARGE) -> tuple[Fitting, onnx.ModelProto]:
    """A fitting whose targets are written, and the model that gives them."""
    graph = EditableGraph(net)
    shapes = infer_shapes(net, {"x": (1, 3, 8, 8)})
    regions = find_regions(graph, infer_shapes(net))
    menus = [Menu(b) for b in find_blocks(graph, regions, shapes)]
    ranks = {m.block.output: len(shapes[m.block.output]) for m in menus}
    fitting = Fitting(net, menus, ranks, ("diagonal", "dense"), True, folder, lambda *_: None)
    exact = reference(net, regions)
    truth = Truth(exact, [*(m.block.output for m in menus), OUTPUT.name], None, {})
    fitting.targets(truth, [OUTPUT], batches(net, count), most)
    return fitting, exact


def test_every_fourth_batch_is_held_out(net: onnx.ModelProto, tmp_path: Path) -> None:
    fitting, _ = prepared(net, tmp_path, 9)
    assert fitting.batches == 9 and list(fitting.held_out) == [3, 7]
    held = list(fitting.held(lambda: batches(net, 9), "images").batches(1))
    want = [b for k, b in enumerate(batches(net, 9)) if k in (3, 7)]
    np.testing.assert_array_equal(np.concatenate([f["x"] for f in held]), np.concatenate([b["x"] for b in want]))


def test_of_few_batches_the_last_is_held_out(net: onnx.ModelProto, tmp_path: Path) -> None:
    fitting, _ = prepared(net, tmp_path, 2)
    assert list(fitting.held_out) == [1] and fitting.open


def test_one_batch_is_not_enough(net: onnx.ModelProto, tmp_path: Path) -> None:
    fitting, _ = prepared(net, tmp_path, 1)
    assert fitting.open == [] and {m.why for m in fitting.menus} == {"few_samples"}


def test_targets_take_no_more_room_than_allowed(net: onnx.ModelProto, tmp_path: Path) -> None:
    fitting, _ = prepared(net, tmp_path, 9)
    size = sum(p.stat().st_size for p in tmp_path.glob("target0.npz"))
    for p in tmp_path.iterdir():
        p.unlink()
    less, _ = prepared(net, tmp_path, 9, int(3.5 * size))
    assert less.batches == 3 and fitting.batches == 9


def error(exact: onnx.ModelProto, model: onnx.ModelProto) -> float:
    """Squared error of the output on samples that no branch has seen."""
    feed = inputs(exact, 64, seed=5)
    want, got = (zoo.execute(m, feed)[0].astype(np.float64) for m in (exact, model))
    return float(((got - want) ** 2).sum())


@pytest.mark.parametrize("budget", [0, 600, MACS])
def test_branches_gain_within_the_budget(net: onnx.ModelProto, tmp_path: Path, budget: int) -> None:
    fitting, exact = prepared(net, tmp_path, 12)
    before = net.SerializeToString()
    graph = fitting.fit(lambda: batches(net, 12), budget, MACS)
    chosen = [m for m in fitting.menus if m.chosen is not None]
    assert net.SerializeToString() == before
    assert sum(m.chosen.macs for m in chosen if m.chosen) <= budget
    assert all((m.chosen is None) == bool(m.why) for m in fitting.menus)
    if budget == 0:
        assert all(m.chosen and m.chosen.branch.form == "bias" for m in chosen)
    else:
        spent = sum(m.chosen.macs for m in chosen if m.chosen)
        assert (spent > 600) == (budget == MACS) and spent > 0
    graph.commit()
    onnx.checker.check_model(graph.model, full_check=True)
    after = error(exact, graph.model)
    assert after < error(exact, net) if budget else after <= 1.02 * error(exact, net)


def test_blocks_that_are_refused_get_nothing(net: onnx.ModelProto, tmp_path: Path) -> None:
    graph = EditableGraph(net)
    shapes = infer_shapes(net, {"x": (1, 3, 8, 8)})
    regions = find_regions(graph, infer_shapes(net))
    menus = [Menu(b, why="widened") for b in find_blocks(graph, regions, shapes)]
    ranks = {m.block.output: len(shapes[m.block.output]) for m in menus}
    fitting = Fitting(net, menus, ranks, ("dense",), True, tmp_path, lambda *_: None)
    assert fitting.open == []
    fitting.targets(Truth(reference(net, regions), [OUTPUT.name], None, {}), [OUTPUT], batches(net, 4), LARGE)
    new = fitting.fit(lambda: batches(net, 4), MACS, MACS)
    assert new.added == [] and all(m.chosen is None and m.why == "widened" for m in menus)
