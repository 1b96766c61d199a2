"""What an output is, and which output of the reference it is compared with."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_ocs.errors import UserError
from onnx_ocs.measurement.outputs import OutputQuality, OutputTally, judged_outputs

RNG = np.random.default_rng(0)


def tallied(truth: np.ndarray, out: np.ndarray, quantized: bool = False, first: bool = True) -> OutputQuality:
    tally = OutputTally("y", first, quantized, 1)
    tally.add(truth, [out])
    return tally.quality(0)


@pytest.mark.parametrize(
    ("truth", "kind", "answers"),
    [
        (RNG.standard_normal((4, 10)), "scores", 4),
        (RNG.standard_normal((4, 10, 1, 1)), "scores", 4),
        (RNG.standard_normal((4, 1)), "values", 0),
        (RNG.standard_normal(4), "values", 0),
        (RNG.standard_normal((4, 7, 16)), "values", 0),  # a map of who knows what
        (RNG.standard_normal((4, 1, 16)), "values", 0),
        (RNG.dirichlet(np.ones(5), (4, 6)), "scores", 24),  # probabilities, on the last axis
        (np.moveaxis(RNG.dirichlet(np.ones(5), (4, 6, 2)), -1, 1), "scores", 48),  # on the second one
        (RNG.integers(0, 9, (4, 6)), "labels", 24),
        (RNG.integers(0, 9, 4).astype(np.uint8), "labels", 4),
        (RNG.integers(0, 2, (4, 3)).astype(bool), "labels", 12),
        (np.asarray(["cat", "dog"], object), "labels", 2),
        (np.zeros((0, 4)), "values", 0),
    ],
)
def test_kinds(truth: np.ndarray, kind: str, answers: int) -> None:
    found = tallied(truth, truth.copy())
    assert (found.kind, found.answers, found.sqnr_db) == (kind, answers, None)
    assert found.agreement == (1.0 if answers else None)


def test_one_feed_shows_that_these_are_no_scores() -> None:
    tally = OutputTally("y", True, False, 1)
    scores = RNG.dirichlet(np.ones(5), (4, 6))
    for truth in (scores, scores - 0.5):
        tally.add(truth, [truth])
    assert (tally.quality(0).kind, tally.quality(0).agreement) == ("values", None)


def test_integers_of_a_quantizer_are_values() -> None:
    truth = RNG.integers(0, 255, (4, 3, 5)).astype(np.uint8)
    assert tallied(truth, truth, quantized=True).kind == "values"
    off = tallied(truth, truth + np.uint8(1), quantized=True)
    energy = float(np.square(truth.astype(float)).sum())
    assert off.sqnr_db is not None and off.sqnr_db < 10 * np.log10(energy)


def test_shares_of_answers() -> None:
    truth = np.eye(4, 6)
    out = truth.copy()
    out[0, 5] = 2.0
    assert tallied(truth, out).agreement == 0.75
    labels = np.asarray([1, 2, 3, 4])
    assert tallied(labels, np.asarray([1, 2, 3, 5])).agreement == 0.75
    assert tallied(labels, labels[:3]).agreement == 0.0, "another number of results"


def test_shapes() -> None:
    truth = RNG.standard_normal((5, 4))
    with pytest.raises(UserError, match=r"output has the shape \(5, 4\), the quantized model's \(3, 4\)"):
        tallied(truth, truth[:3])
    with pytest.raises(UserError, match=r"output 'y' has the shape"):
        tallied(truth, truth.reshape(5, 2, 2), first=False)
    assert tallied(truth, truth[:3], first=False).sqnr_db == 0.0, "fewer results than the reference has"


def test_the_channels_are_on_the_shorter_axis() -> None:
    scales = np.asarray([100.0, 100.0, 1.0, 1.0])
    for truth in (
        RNG.standard_normal((6, 4, 50)) * scales[:, None],
        RNG.standard_normal((6, 50, 4)) * scales,
    ):
        assert [g.channels for g in tallied(truth, truth).groups] == [(0, 1), (2, 3)]


# ---- partners -------------------------------------------------------------------------------------------------------


def model(*outputs: str, op: str = "Identity", sequence: str = "") -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
    if sequence:
        values.insert(0, helper.make_tensor_sequence_value_info(sequence, TensorProto.FLOAT, None))
    nodes = [helper.make_node(op, ["x"], [o]) for o in outputs]
    return helper.make_model(helper.make_graph(nodes, "g", [], values))


@pytest.mark.parametrize(
    ("reference", "judged", "pairs"),
    [
        (("a", "b"), ("a", "b"), [("a", "a"), ("b", "b")]),
        (("b", "a"), ("a", "b"), [("a", "a"), ("b", "b")]),
        (("p", "q"), ("a", "b"), [("a", "p"), ("b", "q")]),
        (("b",), ("a", "b"), [("a", "b"), ("b", "b")]),
        (("p",), ("a", "b"), [("a", "p")]),
        (("a", "c"), ("a", "b"), [("a", "a")]),
    ],
)
def test_partners(reference: tuple[str, ...], judged: tuple[str, ...], pairs: list[tuple[str, str]]) -> None:
    found = judged_outputs(model(*reference), model(*judged))
    assert [(n, t) for n, t, _ in found] == pairs and not any(q for _, _, q in found)


def test_quantized_outputs_and_sequences() -> None:
    assert judged_outputs(model("a"), model("a", op="QuantizeLinear")) == [("a", "a", True)]
    assert judged_outputs(model("a", sequence="s"), model("a", sequence="s")) == [("a", "a", False)]
