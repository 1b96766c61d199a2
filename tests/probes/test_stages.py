"""A model in stages gives what it gives in one session, and runs only what a change reaches."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from onnx import TensorProto, helper, numpy_helper

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.probes import stages as staged
from onnx_ocs.probes.stages import Stages
from onnx_ocs.probes.switchboard import Setting, Switchboard, narrow
from onnx_ocs.regions.find import find_regions
from onnx_ocs.runtime import session as runtime

NAMES = [
    "three_layers", "residual", "branch", "depthwise", "matmul_gelu", "concat_wide", "two_different_quantizers",
    "multiplied", "float16", "opset10", "contrib", "inner_names", "output_integer", "int4",
]  # fmt: skip


def questions(board: Switchboard) -> list[dict[int, Setting]]:
    """All off, each alone, all on, all but one, and each at twice its step."""
    on = {k: narrow(r.quantizer) for k, r in enumerate(board.regions) if r.quantizer is not None}
    coarse = {k: Setting(s.scale * 2, s.low, s.high) for k, s in on.items()}
    return [
        {}, *({k: s} for k, s in on.items()), on, *({i: s for i, s in on.items() if i != k} for k in on),
        *({**on, k: coarse[k]} for k in on),
    ]  # fmt: skip


@pytest.mark.parametrize("resting", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_number_is_that_of_one_session(name: str, resting: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit; stages that are at rest are optimized further, and may add up in another order."""
    if not resting:
        monkeypatch.setattr(staged, "LARGE", 0)
    model, feed = zoo.build(name)
    regions = find_regions(Graph(model), infer_shapes(model))
    board = Switchboard(model, regions, infer_shapes(model))
    whole = Switchboard(model, regions, infer_shapes(model), 1)
    assert whole.stages == 1
    if name in ("three_layers", "residual", "depthwise"):
        assert board.stages > 1
    other = {k: v[::-1].copy() if v.ndim else v for k, v in feed.items()}
    assert any(s.resting is not None for s in board._model.stages) == resting
    for settings in questions(board):
        for samples in (feed, other):
            first = board.outputs[0]
            got, want = board.run(samples, settings)[first], whole.run(samples, settings)[first]
            if resting and len(settings) <= 1:
                np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * np.abs(want).max())
            else:
                np.testing.assert_array_equal(got, want)


def chain(layers: int, extra: list[onnx.NodeProto] | None = None) -> onnx.ModelProto:
    """x -> (x * w_i, then where(on_i, round, itself)) ... -> y, in doubles that no two layers make alike."""
    nodes, inputs, weights = [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])], []
    for i in range(layers):
        read = "x" if i == 0 else f"s{i - 1}"
        nodes.append(helper.make_node("Mul", [read, f"w{i}"], [f"m{i}"]))
        weights.append(numpy_helper.from_array(np.asarray([1.5 + i], np.float32), f"w{i}"))
        inner = [
            helper.make_graph([helper.make_node(op, [f"m{i}"], [f"{op}{i}"])], f"{op}{i}", [],
                              [helper.make_tensor_value_info(f"{op}{i}", TensorProto.FLOAT, None)])
            for op in ("Round", "Identity")
        ]  # fmt: skip
        nodes.append(helper.make_node("If", [f"on{i}"], [f"s{i}"], then_branch=inner[0], else_branch=inner[1]))
        inputs.append(helper.make_tensor_value_info(f"on{i}", TensorProto.BOOL, []))
    last = f"s{layers - 1}"
    for n in extra or []:
        nodes.append(n)
        last = n.output[0]
    graph = helper.make_graph(nodes, "chain", inputs, [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)])
    graph.initializer.extend(weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def load(layers: int, extra: list[onnx.NodeProto] | None = None) -> Stages:
    return Stages(chain(layers, extra), switches(layers), [f"s{i}" for i in range(layers)])


def switches(layers: int, *on: int) -> dict[str, Any]:
    return {f"on{i}": np.asarray(i in on) for i in range(layers)}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the runs of sessions."""
    count = [0]
    run = runtime.Session.run

    def counted(self: Any, *args: Any) -> Any:
        count[0] += 1
        return run(self, *args)

    monkeypatch.setattr(runtime.Session, "run", counted)
    return count


def output(model: Stages, feed: dict[str, Any], parameters: dict[str, Any]) -> Any:
    """The only output."""
    (value,) = model.run(feed, parameters).values()
    return value


def cost(ran: list[int], model: Stages, feed: dict[str, Any], *on: int) -> int:
    before = ran[0]
    model.run(feed, switches(6, *on))
    return ran[0] - before


def test_only_what_lies_behind_a_change_runs(ran: list[int]) -> None:
    model, feed = load(6), {"x": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)}
    assert cost(ran, model, feed) == 6
    # against the last but one: stages in front of a switch that is on do not rest
    assert [cost(ran, model, feed, k) for k in range(6)] == [6, 6, 5, 4, 3, 2]
    assert cost(ran, model, feed, 5) == 0  # the last one is kept
    assert cost(ran, model, feed, 3) == 3
    assert cost(ran, model, feed, 3, 4) == 2  # a change that was kept: the last question comes again
    assert cost(ran, model, feed, 3, 5) == 2  # what rested in front of it counts for what rests
    again = {"x": feed["x"].copy()}
    assert cost(ran, model, again, 3, 5) == 6, "other samples, though they are equal"


def test_an_answer_does_not_depend_on_what_was_asked_before() -> None:
    """Stages at rest may add up in another order (here they are off by one): what they wrote is for others at rest."""
    feed = {"x": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)}

    def marked() -> Stages:
        model = load(6)
        for stage in model.stages:
            assert stage.resting is not None
            run = stage.resting.run
            stage.resting.run = lambda inputs, run=run: {k: v + 1 for k, v in run(inputs).items()}  # type: ignore
        return model

    questions = [(), (3,), (), (5,), (0,), (2, 4), (2,), (5,), (), (1,)]
    long = marked()
    for on in questions:
        np.testing.assert_array_equal(output(long, feed, switches(6, *on)), output(marked(), feed, switches(6, *on)))


def test_a_stage_at_rest_has_no_switches() -> None:
    model, feed = load(6), {"x": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)}
    asked: list[int] = []
    for k, stage in enumerate(model.stages):
        assert stage.resting is not None and not stage.resting.inputs & set(switches(6))
        stage.session.run = lambda inputs, k=k, run=stage.session.run: (asked.append(k), run(inputs))[1]  # type: ignore
    for on, switched in (((), []), ((2,), [0, 1, 2]), ((1, 4), [1, 2, 3, 4])):
        asked.clear()
        model.run(feed, switches(6, *on))
        assert asked == switched


def test_little_memory_costs_time_only(ran: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    feeds = [{"x": np.full((2, 4), 0.3 + k, np.float32)} for k in range(3)]
    free = load(6)
    want = [output(free, f, switches(6, k)) for f in feeds for k in range(6)]
    monkeypatch.setattr(staged, "KEPT", 6 * 32)  # of the three, one's first question
    tight = load(6)
    got = [output(tight, f, switches(6, k)) for f in feeds for k in range(6)]
    np.testing.assert_array_equal(got, want)
    assert staged._size(tight._feeds.values()) <= 6 * 32
    rounds = load(6)
    assert [[cost(ran, rounds, f, 5) for f in feeds] for _ in range(2)] == [[6, 6, 6], [0, 6, 6]]
    rounds.forget()
    assert cost(ran, rounds, feeds[0], 5) == 6
    monkeypatch.setattr(staged, "KEPT", 0)
    none = load(6)
    np.testing.assert_array_equal([output(none, f, switches(6, k)) for f in feeds for k in range(6)], want)
    assert not none._feeds


def test_chance_is_drawn_once() -> None:
    """A node that draws numbers is in one stage only, whoever reads them."""
    extra = [
        helper.make_node("RandomNormal", [], ["noise"], shape=[4]),
        helper.make_node("Add", ["s5", "noise"], ["sum"]),
        helper.make_node("Sub", ["sum", "noise"], ["difference"]),
    ]
    model = load(6, extra)
    nodes = [n.op_type for s in model.stages for n in optimized_nodes(s.session)]
    assert nodes.count("RandomNormal") == 1


def optimized_nodes(session: runtime.Session) -> list[onnx.NodeProto]:
    return list(onnx.load_from_string(session._session._model_bytes).graph.node)


def test_what_cannot_be_handed_over_is_not_cut() -> None:
    """Text crosses no cut."""
    model = chain(3, [helper.make_node("Add", ["s2", "length"], ["y"])])
    model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["text"], to=TensorProto.STRING))
    model.graph.node.append(helper.make_node("Cast", ["text"], ["number"], to=TensorProto.FLOAT))
    model.graph.node.append(helper.make_node("Identity", ["number"], ["length"]))
    feed = {"x": np.ones((2, 4), np.float32)}
    one = Stages(model, switches(3), [f"s{i}" for i in range(3)])
    assert len(one.stages) == 1
    np.testing.assert_array_equal(output(one, feed, switches(3)), feed["x"] * np.float32(1.5 * 2.5 * 3.5) + 1)


def wide_chain(sums_over_samples: bool = False, fixed: int | None = None) -> onnx.ModelProto:
    """A chain whose samples have 64 values, which it adds up with weights."""
    model = chain(3, [helper.make_node("MatMul", ["s2", "into"], ["y"])])
    rng = np.random.default_rng(0)
    model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal((64, 8)).astype(np.float32), "into"))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, [fixed or "N", 64]))
    if sums_over_samples:
        model.graph.node.append(helper.make_node("ReduceMean", ["y"], ["mean"], axes=[0], keepdims=1))
        model.graph.node.append(helper.make_node("Add", ["y", "mean"], ["z"]))
        model.graph.output[0].name = "z"
    return model


def samples(count: int) -> dict[str, Any]:
    return {"x": np.random.default_rng(count).standard_normal((count, 64)).astype(np.float32)}


NAMED = [f"s{i}" for i in range(3)]


@pytest.mark.parametrize("count", [2, 3, 4, 5, 7, 8])
def test_samples_in_slices_give_the_same_numbers(count: int) -> None:
    model = wide_chain()
    apart = Stages(model, switches(3), NAMED, example=samples(8))
    whole = Stages(model, switches(3), NAMED)
    assert apart.sliced and not whole.sliced
    feed = samples(count)
    for on in ((), (0,), (1,), (0, 1, 2), (2,)):
        np.testing.assert_array_equal(output(apart, feed, switches(3, *on)), output(whole, feed, switches(3, *on)))
    sizes = [len(s.feed["x"]) for s in apart._feeds[id(feed)].slices]
    assert sum(sizes) == count and min(sizes) >= 2 and len(sizes) == max(1, count // 2)


def test_a_large_model_makes_floats_of_its_weights_once_for_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged, "LARGE", 0)
    assert not Stages(wide_chain(), switches(3), NAMED, example=samples(8)).sliced
    assert not Stages(wide_chain(), switches(3), NAMED, sliced=True).sliced


def test_slices_keep_what_crossed_the_cuts(ran: list[int]) -> None:
    model, feed = Stages(wide_chain(), switches(3), NAMED, example=samples(8)), samples(8)
    for on, runs in (((1,), 4), ((1, 2), 2), ((0, 1), 4), ((1,), 0)):
        before = ran[0]
        model.run(feed, switches(3, *on))
        assert ran[0] - before == 4 * runs


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (wide_chain(sums_over_samples=True), samples(8)),
        (wide_chain(fixed=8), samples(8)),
        (wide_chain(), samples(3)),
    ],
    ids=["the samples of a batch see each other", "a fixed batch", "few samples"],
)
def test_what_gives_other_numbers_in_slices_runs_whole(model: onnx.ModelProto, example: dict[str, Any]) -> None:
    apart = Stages(model, switches(3), NAMED, example=example)
    assert not apart.sliced
    want = output(Stages(model, switches(3), NAMED), example, switches(3, 1))
    np.testing.assert_array_equal(output(apart, example, switches(3, 1)), want)


def test_every_output_is_given(ran: list[int]) -> None:
    """One that leaves early is kept with its stage; what no switch reaches is given as well; others are not run."""
    model = chain(6, [helper.make_node("Neg", ["s1"], ["early"]), helper.make_node("Abs", ["w0"], ["still"])])
    model.graph.output[0].name = "s5"
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in ("early", "still"))
    feed = {"x": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)}
    cut = Stages(model, switches(6), [f"s{i}" for i in range(6)])
    whole = Stages(model, switches(6), [f"s{i}" for i in range(6)], 1)
    assert len(cut.stages) > len(whole.stages) == 1
    for on in ((), (0,), (1, 4), (5,)):
        got, want = cut.run(feed, switches(6, *on)), whole.run(feed, switches(6, *on))
        assert got.keys() == {"s5", "early", "still"}
        for name, value in want.items():
            np.testing.assert_array_equal(got[name], value)
    before = ran[0]
    cut.run(feed, switches(6, 4))
    assert ran[0] - before < len(cut.stages), "the early output comes from a stage that is not run again"
    early = Stages(model, switches(6), [f"s{i}" for i in range(6)], outputs=["early"])
    assert early.run(feed, switches(6, 0)).keys() == {"early"} and len(early.stages) < len(cut.stages)
