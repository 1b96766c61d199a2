"""Every graph output counts, each by what it is: values, class scores, labels; and each group of its channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_ocs.calibration.samples import Samples, open_samples
from onnx_ocs.errors import UserError
from onnx_ocs.measurement.answers import Known
from onnx_ocs.measurement.outputs import OutputQuality
from onnx_ocs.measurement.quality import Quality, compare, decibels, losing

RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 6, 4)).astype(np.float32)


def model(*outputs: tuple[str, str], names: dict[str, np.ndarray] | None = None, kind: int = TensorProto.FLOAT) -> Any:
    """A model that reads x (N, 6, 4); each output is "op(constant)" as (name, op), of constants by the op's name."""
    nodes, constants = [], names or {}
    g = helper.make_graph([], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6, 4])], [])
    for name, op in outputs:
        extra = [f"{name}_c"] if f"{name}_c" in constants else []
        inputs = ["x", *extra]
        attributes = {"axis": 1, "keepdims": 0} if op == "ArgMax" else {"axis": 1} if op == "Softmax" else {}
        nodes.append(helper.make_node(op, inputs, [name], **attributes))
        g.output.append(onnx.ValueInfoProto(name=name))
        g.output[-1].type.tensor_type.elem_type = TensorProto.INT64 if op == "ArgMax" else kind
    g.node.extend(nodes)
    g.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    return helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def samples(m: onnx.ModelProto, x: np.ndarray = X) -> Samples:
    return open_samples({"x": x}, m)


def f32(value: Any) -> np.ndarray:
    return np.asarray(value, np.float32)


def test_every_output_by_its_own_energy() -> None:
    truth = model(("small", "Mul"), ("large", "Mul"), names={"small_c": f32(1e-3), "large_c": f32(1e3)})
    other = model(("small", "Mul"), ("large", "Mul"), names={"small_c": f32(0.9e-3), "large_c": f32(0.99e3)})
    same, off = compare(truth, [truth, other], samples(truth))
    assert [o.name for o in off.outputs] == ["small", "large"]
    assert [o.sqnr_db for o in same.outputs] == [None, None]
    assert [round(o.sqnr_db or 0, 2) for o in off.outputs] == [20.0, 40.0]
    assert (off.sqnr_db, off.agreement, off.samples) == (off.outputs[0].sqnr_db, None, 20), "the first one is on top"
    assert {o.kind for o in off.outputs} == {"values"}


def test_outputs_are_found_by_name_whatever_their_order() -> None:
    """A float twin that lists its outputs in another order, and one that calls them otherwise."""
    constants = {"a_c": f32(1.0), "b_c": f32(5.0)}
    quantized = model(("a", "Mul"), ("b", "Mul"), names=constants)
    turned = model(("b", "Mul"), ("a", "Mul"), names=constants)
    renamed = model(("p", "Mul"), ("q", "Mul"), names={"p_c": f32(1.0), "q_c": f32(5.0)})
    for truth in (turned, renamed):
        (found,) = compare(truth, [quantized], samples(quantized))
        assert [(o.name, o.sqnr_db) for o in found.outputs] == [("a", None), ("b", None)]
    one = model(("a", "Mul"), names={"a_c": f32(1.0)})
    (found,) = compare(one, [quantized], samples(quantized))
    assert [o.name for o in found.outputs] == ["a"], "an output without a counterpart is not judged"


def test_labels_by_agreement() -> None:
    truth = model(("label", "ArgMax"))
    (found,) = compare(truth, [truth], samples(truth))
    assert found.outputs == (OutputQuality("label", "labels", None, 1.0, 80),)
    shift = model(("label", "ArgMax"))
    bias = np.zeros((1, 6, 1), np.float32)
    bias[0, 2] = 0.5
    shift.graph.node.insert(0, helper.make_node("Add", ["x", "bias"], ["moved"]))
    shift.graph.node[1].input[0] = "moved"
    shift.graph.initializer.append(numpy_helper.from_array(bias, "bias"))
    (found,) = compare(truth, [shift], samples(truth))
    expected = float(np.mean(X.argmax(1) == (X + bias).argmax(1)))
    assert 0.5 < expected < 1 and found.outputs[0].agreement == expected == found.agreement
    assert found.sqnr_db is None


def test_scores_of_a_vector_and_of_a_map() -> None:
    """(N, classes) are scores; so are probabilities of a map, place by place; other maps are not."""
    flat = helper.make_node("Flatten", ["x"], ["y"])
    vector = model(("y", "Identity"))
    vector.graph.node[0].CopyFrom(flat)
    (found,) = compare(vector, [vector], samples(vector))
    assert (found.outputs[0].kind, found.agreement, found.outputs[0].answers) == ("scores", 1.0, 20)
    soft = model(("y", "Softmax"))
    (found,) = compare(soft, [soft], samples(soft))
    assert (found.outputs[0].kind, found.agreement, found.outputs[0].answers) == ("scores", 1.0, 80)
    plain = model(("y", "Identity"))
    (found,) = compare(plain, [plain], samples(plain))
    assert (found.outputs[0].kind, found.agreement) == ("values", None)


def test_integers_of_a_quantizer_are_values() -> None:
    m = model(("y", "QuantizeLinear"), names={"y_c": f32(0.05)}, kind=TensorProto.UINT8)
    m.graph.node[0].input.append("zero")
    m.graph.initializer.append(numpy_helper.from_array(np.uint8(128), "zero"))
    (found,) = compare(m, [m], samples(m))
    assert (found.outputs[0].kind, found.sqnr_db, found.agreement) == ("values", None, None)


def test_channels_of_another_scale_are_judged_by_themselves() -> None:
    scale = f32([640, 500, 700, 0.1, 0.2, 0.15]).reshape(6, 1)
    off = scale * f32([1.001, 1.001, 1.001, 1.5, 1.5, 1.5]).reshape(6, 1)
    truth, other = (model(("y", "Mul"), names={"y_c": s}) for s in (scale, off))
    same, found = compare(truth, [truth, other], samples(truth))
    boxes, scores = found.outputs[0].groups
    assert (boxes.channels, scores.channels) == ((0, 1, 2), (3, 4, 5))
    assert boxes.sqnr_db == pytest.approx(60, abs=0.1) and scores.sqnr_db == pytest.approx(6.02, abs=0.01)
    assert found.sqnr_db == pytest.approx(60, abs=0.1), "as a whole nothing shows"
    assert losing(same, same) is None
    lost = losing(same, found)
    assert lost is not None and "'y' (channel 3 and 2 more) identical -> 6.02 dB" in lost


def test_no_groups_where_channels_are_alike() -> None:
    truth = model(("y", "Mul"), names={"y_c": f32([1, 2, 3, 4, 5, 6]).reshape(6, 1)})
    assert compare(truth, [truth], samples(truth))[0].outputs[0].groups == ()


def test_constant_channels() -> None:
    """Channels that are dead in the model, and not in the reference; what is constant in both is nobody's fault."""
    alive, dead = f32([1, 1, 1, 1, 0, 1]).reshape(6, 1), f32([1, 0, 1, 0, 0, 1]).reshape(6, 1)
    truth, other = (model(("y", "Mul"), names={"y_c": s}) for s in (alive, dead))
    same, found = compare(truth, [truth, other], samples(truth))
    assert same.outputs[0].constant_channels == () and found.outputs[0].constant_channels == (1, 3)
    few = samples(truth, X[:3])
    assert compare(truth, [other], few)[0].outputs[0].constant_channels == (), "3 samples of 4 values tell nothing"


def test_another_shape_is_another_model() -> None:
    truth, other = model(("y", "Identity")), model(("y", "Identity"))
    other.graph.node[0].CopyFrom(helper.make_node("Flatten", ["x"], ["y"]))
    with pytest.raises(UserError, match="has the shape"):
        compare(truth, [other], samples(truth))


def test_a_number_of_results_that_depends_on_the_values() -> None:
    """As behind a NonMaxSuppression: fewer boxes are wrong boxes, and no error."""
    truth, other = (model(("y", "Identity"), ("found", "NonZero"), ("boxes", "Identity")) for _ in range(2))
    for m, bound in ((truth, 0.0), (other, 1.0)):
        g = m.graph
        del g.node[:]
        g.node.extend(
            [
                helper.make_node("Identity", ["x"], ["y"]),
                helper.make_node("Reshape", ["x", "flat"], ["line"]),
                helper.make_node("Greater", ["line", "bound"], ["above"]),
                helper.make_node("NonZero", ["above"], ["found"]),
                helper.make_node("Compress", ["line", "above"], ["boxes"], axis=0),
            ]
        )
        g.output[1].type.tensor_type.elem_type = TensorProto.INT64
        g.initializer.extend(
            [numpy_helper.from_array(np.asarray([-1]), "flat"), numpy_helper.from_array(f32(bound), "bound")]
        )
    (found,) = compare(truth, [other], samples(truth))
    y, indices, boxes = found.outputs
    assert y.sqnr_db is None and indices.agreement == 0.0
    assert boxes.kind == "values" and boxes.sqnr_db == 0.0


def test_a_value_that_is_not_finite_is_the_worst_error() -> None:
    truth, other = model(("y", "Identity")), model(("y", "Log"))
    same, found = compare(truth, [truth, other], samples(truth))
    assert found.sqnr_db == -np.inf and losing(same, found) is not None
    assert compare(other, [other], samples(other))[0].sqnr_db is None, "what is no number in both is the same"


def test_a_model_that_does_not_run() -> None:
    m = model(("y", "Add"), names={"y_c": np.zeros((7, 6, 4), np.float32)})
    with pytest.raises(UserError, match="does not run the model on these samples"):
        compare(m, [m], samples(m))


def test_decibels() -> None:
    assert decibels(100.0, 1.0) == 20.0
    assert decibels(1.0, 0.0) is None and decibels(0.0, 1.0) is None and decibels(1.0, np.inf) == -np.inf


# ---- never worse ----------------------------------------------------------------------------------------------------


def quality(*outputs: OutputQuality) -> Quality:
    return Quality(outputs[0].sqnr_db, outputs[0].agreement, 100, outputs)


def values(name: str, db: float | None) -> OutputQuality:
    return OutputQuality(name, "values", db)


def scores(db: float | None, agreement: float) -> OutputQuality:
    return OutputQuality("s", "scores", db, agreement, 100)


def labels(agreement: float, answers: int = 1000) -> OutputQuality:
    return OutputQuality("l", "labels", None, agreement, answers)


@pytest.mark.parametrize(
    ("before", "after", "loses"),
    [
        ([values("a", 20.0)], [values("a", 19.995)], False),
        ([values("a", 20.0)], [values("a", 19.98)], True),
        ([values("a", None)], [values("a", 60.0)], True),
        ([values("a", None)], [values("a", 120.0)], False),  # float arithmetic
        ([values("a", 10.0), values("b", 34.5)], [values("a", 27.0), values("b", 3.1)], True),
        ([values("a", 10.0), values("b", 34.5)], [values("a", 27.0), values("b", 34.45)], False),
        ([values("a", 10.0), values("b", 34.5)], [values("a", 9.95), values("b", 34.5)], True),  # for nothing
        ([scores(20.0, 0.90)], [scores(19.0, 0.99)], False),
        ([scores(20.0, 0.90)], [scores(19.0, 0.92)], True),  # two answers of a hundred are chance
        ([scores(20.0, 0.90)], [scores(19.0, 0.90)], True),
        ([scores(20.0, 0.90), values("b", 20.0)], [scores(19.0, 0.92), values("b", 12.0)], True),
        ([scores(20.0, 0.90), labels(0.95)], [scores(22.0, 0.92), labels(0.90)], True),
        ([scores(20.0, 0.90), labels(0.95)], [scores(22.0, 0.92), labels(0.947)], False),
        ([labels(0.95, 20)], [labels(0.90, 20)], False),  # one answer
        ([labels(0.95, 40)], [labels(0.90, 40)], True),
    ],
)  # fmt: skip
def test_losing(before: list[OutputQuality], after: list[OutputQuality], loses: bool) -> None:
    found = losing(quality(*before), quality(*after))
    assert (found is not None) == loses, found


def test_what_loses_is_named() -> None:
    before, after = quality(values("a", 10.0), values("b", 34.5)), quality(values("a", 27.0), values("b", 3.1))
    assert losing(before, after) == "'b' 34.50 dB -> 3.10 dB"
    assert losing(quality(labels(0.95)), quality(labels(0.5))) == "'l' 95.00 % -> 50.00 %"


def test_answers_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same figures, and one run of the reference for each feed, however often models are compared."""
    truth = model(("y", "Mul"), ("z", "Add"), names={"y_c": f32(2), "z_c": f32(1)})
    other = model(("y", "Mul"), ("z", "Add"), names={"y_c": f32(1.9), "z_c": f32(1.1)})
    feeds = [{"x": X[k : k + 5]} for k in (0, 5)]
    given = Samples("some", lambda _size, _limit: ((5, f) for f in feeds))
    want = compare(truth, [other], given)
    answers, asked = Known(truth), list[int]()
    run = answers._session.run
    monkeypatch.setattr(answers._session, "run", lambda *a: (asked.append(1), run(*a))[1])
    assert [compare(truth, [other], given, known=answers) for _ in range(3)] == [want] * 3
    assert len(asked) == len(feeds)
