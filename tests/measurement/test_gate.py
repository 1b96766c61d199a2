"""The judge's errors, and which layers it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_ocs.calibration.judging import Judging
from onnx_ocs.measurement.gate import Judge, choose

RNG = np.random.default_rng(0)
Feed = Mapping[str, np.ndarray]


def scaled(factor: np.ndarray, shape: list[Any]) -> onnx.ModelProto:
    """y = factor * x."""
    info = [helper.make_tensor_value_info(t, TensorProto.FLOAT, shape) for t in "xy"]
    node = helper.make_node("Mul", ["x", "f"], ["y"])
    graph = helper.make_graph(
        [node], "g", info[:1], info[1:], [numpy_helper.from_array(np.asarray(factor, np.float32), "f")]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def judge_of(model: onnx.ModelProto, feeds: Any, mask: Any = lambda _: None) -> Judge:
    return Judge(model, model, lambda: feeds, mask)


def test_errors_are_shares_of_the_energy() -> None:
    feeds = [{"x": RNG.standard_normal((1, 3)).astype(np.float32)} for _ in range(4)]
    judge = judge_of(scaled(np.ones(3), ["N", 3]), feeds)
    off = np.asarray([1.5, 1.0, 0.5])
    energy = sum((f["x"].astype(np.float64) ** 2).sum() for f in feeds)
    wanted = [((f["x"] * 0.5 * [1, 0, -1]) ** 2).sum() / energy for f in feeds]
    assert judge.losses(scaled(np.ones(3), ["N", 3]))[0].max() < 1e-12
    np.testing.assert_allclose(judge.losses(scaled(off, ["N", 3]))[0], [wanted], rtol=1e-5)


def test_rows_that_do_not_count_are_not_judged() -> None:
    feeds = [{"x": RNG.standard_normal((1, 4, 3)).astype(np.float32)}]
    mask = np.asarray([[True, True, False, False]])
    rows = np.ones((1, 4, 1))
    rows[:, 2:] = 7  # wrong where nothing counts

    def losses(mask_of: Any) -> float:
        judge = judge_of(scaled(np.ones(1), ["N", 4, 3]), feeds, mask_of)
        return float(judge.losses(scaled(rows, ["N", 4, 3]))[0].max())

    assert losses(lambda _: mask) < 1e-12 < 1 < losses(lambda _: None)


def test_weak_channels_are_judged_by_themselves() -> None:
    """An error in a channel of a thousandth of the energy is seen, where channels are so far apart."""
    x = RNG.standard_normal((20, 2, 5)).astype(np.float32) * np.asarray([[[100.0], [1.0]]], np.float32)
    judge = judge_of(scaled(np.ones(1), ["N", 2, 5]), [{"x": x}])
    whole, apart = judge.losses(scaled(np.asarray([[1.0], [0.0]]), ["N", 2, 5]))[0][:, 0]
    assert whole == pytest.approx(1e-4, rel=0.5) and apart == pytest.approx(1.0, rel=1e-4)


def test_what_is_not_finite_is_the_worst() -> None:
    feeds = [{"x": np.ones((1, 3), np.float32)}]
    judge = judge_of(scaled(np.ones(3), ["N", 3]), feeds)
    assert np.isinf(judge.losses(scaled(np.full(3, np.nan), ["N", 3]))[0]).all()


def test_the_users_metric_is_asked() -> None:
    feeds = [{"x": np.full((2, 3), k, np.float32)} for k in (1, 2)]

    def metric(outputs: Any, references: Any, labels: Any) -> float:
        assert outputs["y"].shape == references["y"].shape == (4, 3) and labels == {}
        return -float(np.abs(outputs["y"] - references["y"]).max())

    one = scaled(np.ones(3), ["N", 3])
    judge = Judge(one, one, lambda: feeds, lambda _: None, Judging(metric=metric))
    assert judge.losses(one)[1] == 0 and judge.losses(scaled(np.full(3, 1.5), ["N", 3]))[1] == -1.0


def errors_without(harmful: set[int], helpful: float = 1.0) -> Any:
    """Two outputs over eight samples: each layer takes something away, harmful ones add."""
    noise = 1 + 0.01 * np.random.default_rng(1).standard_normal((2, 8))

    def losses(chosen: frozenset[int]) -> tuple[np.ndarray, float]:
        gain = sum(-helpful if k not in harmful else 6.0 for k in chosen)
        return np.asarray(noise * 10 ** (gain / 10)), 0.0

    return losses


def test_all_layers_are_kept_where_all_help() -> None:
    assert choose(8, errors_without(set())).kept == frozenset(range(8))


def test_a_half_that_harms_is_taken_back() -> None:
    assert choose(8, errors_without({4, 5, 6, 7})).kept == frozenset(range(4))


def test_nothing_is_kept_where_all_harm() -> None:
    assert choose(8, errors_without(set(range(8)))).kept == frozenset()


def scattered(gains: list[float], feeds: int, by: float = 3.0) -> Any:
    """One output whose error falls by these gains (dB, on average over the feeds), each feed's by its own chance."""
    chance = np.random.default_rng(0).standard_normal(feeds)
    chance = by * (chance - chance.mean()) / chance.std(ddof=1)

    def losses(chosen: frozenset[int]) -> tuple[np.ndarray, float]:
        if not chosen:
            return np.ones((1, feeds)), 0.0
        return np.asarray([10 ** (-(sum(gains[k] for k in chosen) + chance) / 10)]), 0.0

    return losses


@pytest.mark.parametrize(("gain", "feeds", "kept"), [(1.3, 32, True), (0.4, 32, False), (1.3, 8, False), (3, 8, True)])
def test_what_is_kept_is_likely_to_help(gain: float, feeds: int, kept: bool) -> None:
    """A little more than one standard error of 3 dB among so many feeds, and more of few."""
    assert choose(1, scattered([gain], feeds)).kept == (frozenset([0]) if kept else frozenset())


@pytest.mark.parametrize(("gain", "sure"), [(0.25, False), (0.4, True)])
def test_what_is_sure_is_further_from_chance(gain: float, sure: bool) -> None:
    """16 feeds of 0.5 dB: a standard error of 0.125 dB, of which 1.5 are enough to stay, and 2.5 to be sure."""
    assert choose(1, scattered([gain], 16, 0.5)) == (frozenset([0]), sure)


def test_one_feed_and_infinite_errors_are_not_sure() -> None:
    one = lambda chosen: (np.asarray([[0.5 if chosen else 1.0]]), 0.0)  # noqa: E731
    ended = lambda chosen: (np.asarray([[1.0, 1.0 if chosen else np.inf]]), 0.0)  # noqa: E731
    assert choose(1, one) == choose(1, ended) == (frozenset([0]), False)


def test_nothing_is_not_sure() -> None:
    assert choose(1, scattered([0.1], 8)) == (frozenset(), False)


def test_each_feed_is_for_the_model_of_its_turn() -> None:
    """What fits the samples that it has not seen is seen there alone."""
    feeds = [{"x": np.full((1, 3), k + 1, np.float32)} for k in range(4)]
    one = scaled(np.ones(3), ["N", 3])
    judge = Judge(one, one, lambda: feeds, lambda _: None, turns=[1, 0, 1, 0])
    errors, _ = judge.losses(one, scaled(np.full(3, 2.0), ["N", 3]))
    energy = np.asarray([1.0, 4.0, 9.0, 16.0])
    np.testing.assert_allclose(errors, [energy * [1, 0, 1, 0] / energy.sum()], atol=1e-12)


def test_what_helps_where_the_errors_are_is_kept() -> None:
    """Half of the feeds have the error, and lose it; the others, next to nothing, double: no decibel on average."""
    then = np.tile([1.0, 1e-3], 16)[None]
    now = then * np.tile([0.5, 2.0], 16)
    assert choose(1, lambda chosen: (now if chosen else then, 0.0)).kept == frozenset([0])
    assert choose(1, lambda chosen: (then if chosen else now, 0.0)).kept == frozenset()


def test_no_output_may_be_worse() -> None:
    """The first output gains from every layer, the second loses from the fifth on."""

    def losses(chosen: frozenset[int]) -> tuple[np.ndarray, float]:
        second = 1.0 - 0.01 * len(chosen) + 3.0 * (5 in chosen)
        return np.asarray([[10 / (1 + len(chosen))] * 4, [second] * 4]), 0.0

    kept = choose(8, losses).kept
    assert kept and 5 not in kept


def test_the_metric_decides_before_the_errors() -> None:
    """The fifth layer makes the errors smaller and the metric worse: it goes, with as few others as halving finds."""

    def losses(chosen: frozenset[int]) -> tuple[np.ndarray, float]:
        return np.full((1, 8), 1.0 / (1 + len(chosen))), 0.5 + 0.1 * bool(chosen) - 0.3 * (5 in chosen)

    kept = choose(8, losses).kept
    assert kept and 5 not in kept
    assert choose(8, lambda c: (losses(c)[0], -float(len(c)))).kept == frozenset(), "all of them make it worse"


def test_labels_may_lose_an_answer() -> None:
    def losses(chosen: frozenset[int]) -> tuple[np.ndarray, float]:
        return np.asarray([[1.0 / (1 + len(chosen))] * 4, [0.01 + 0.002 * bool(chosen)] * 4]), 0.0

    assert choose(2, losses).kept == frozenset()
    assert choose(2, losses, np.ones(2), np.asarray([0.0, 0.01])).kept == frozenset(range(2))


def test_passages_of_text_are_judged_one_by_one() -> None:
    """The errors of a long text are those of its passages; together they are what they were."""
    ids = TensorProto.INT64
    info = [helper.make_tensor_value_info("x", ids, ["N", 96]), helper.make_tensor_value_info("y", 1, ["N", 96, 3])]

    def embedding(off: np.ndarray) -> onnx.ModelProto:
        table = words + off
        graph = helper.make_graph(
            [helper.make_node("Gather", ["t", "x"], ["y"])], "g", info[:1], info[1:],
            [numpy_helper.from_array(table.astype(np.float32), "t")],
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    words = np.random.default_rng(5).standard_normal((10, 3))
    off = np.zeros((10, 3))
    off[7] = 0.5  # one word is wrong; it stands in the second passage
    x = np.full((1, 96), 2)
    x[0, 40] = 7
    judge = judge_of(embedding(0 * off), [{"x": x}, {"x": x}])
    (errors,) = judge.losses(embedding(off))[0]
    assert errors.shape == (6,) and np.flatnonzero(errors).tolist() == [1, 4]
    y = words[x]
    assert errors.sum() == pytest.approx(0.75 / (y**2).sum(), rel=1e-4)


def test_outputs_that_do_not_count_are_not_parted() -> None:
    """A label for the whole text beside a value for each token."""
    info = [helper.make_tensor_value_info("x", TensorProto.INT64, ["N", 64])]
    outs = [helper.make_tensor_value_info("y", 1, ["N", 64, 3]), helper.make_tensor_value_info("s", 1, ["N"])]
    nodes = [
        helper.make_node("Gather", ["t", "x"], ["y"]),
        helper.make_node("ReduceSum", ["y", "axes"], ["s"], keepdims=0),
    ]
    constants = [
        numpy_helper.from_array(RNG.standard_normal((10, 3)).astype(np.float32), "t"),
        numpy_helper.from_array(np.asarray([1, 2]), "axes"),
    ]
    graph = helper.make_graph(nodes, "g", info, outs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feeds = [{"x": RNG.integers(0, 10, (1, 64))} for _ in range(2)]
    judge = Judge(model, model, lambda: feeds, lambda _: None, Judging(excluded=("s",)))
    assert judge.losses(model)[0].shape == (1, 4)


@pytest.mark.parametrize("where", [slice(0, 1), slice(None)], ids=["in one feed", "in all"])
def test_what_is_infinite_either_way_says_nothing(where: slice) -> None:
    """An output without finite values takes no gain of the others; what becomes infinite is a loss."""

    def losses(gain: float, worse: float = 1.0) -> Any:
        second = np.full(16, worse)
        second[where] = np.inf
        return np.asarray([np.full(16, gain), second]), 0.0

    assert choose(1, lambda chosen: losses(0.5 if chosen else 1.0)).kept == frozenset([0])
    assert choose(1, lambda chosen: losses(2.0 if chosen else 1.0)).kept == frozenset()
    finite = np.ones((2, 16)), 0.0
    assert choose(1, lambda chosen: losses(0.5) if chosen else finite).kept == frozenset()
    assert choose(1, lambda chosen: (np.full((2, 16), 0.9), 0.0) if chosen else losses(1.0)).kept == frozenset([0])
    if where == slice(0, 1):
        found = choose(1, lambda chosen: losses(0.5, 3.0) if chosen else losses(1.0))
        assert found.kept == frozenset(), "its other feeds"
