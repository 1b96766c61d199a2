"""The yardstick of new grids: what is declared and done passes, what is done otherwise or not declared is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial

import detectors
import gained_nets
import mutations
import numpy as np
import onnx
import pytest
import zoo
from regridded_models import lengthened, moved_zero_point, regridded

from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.records.grids import GRIDS
from onnx_ocs.regions.region import Region
from onnx_ocs.regridding import bits16, edits, lengthen, mend
from onnx_ocs.regridding.mend import WAYS
from onnx_ocs.translation import rescale
from onnx_ocs.verification.verdict import Verification
from onnx_ocs.verification.verify import verify

Model = onnx.ModelProto
Patch = pytest.MonkeyPatch


def with_gains(name: str) -> tuple[Model, Model]:
    """A network, and the same with gains drawn at random."""
    model = gained_nets.build(name)
    return model, gained_nets.given(model)


SUBJECTS: dict[str, Callable[[], tuple[Model, Model]]] = {
    "left out": lambda: regridded("one_output", WAYS[1]),
    "left out, of several": lambda: regridded("several", WAYS[1]),
    "left out, read by a layer": lambda: regridded("read_by_a_layer", WAYS[1]),
    "split": lambda: regridded("float_parts", WAYS[0]),
    "split, read by a layer": lambda: regridded("read_by_a_layer", WAYS[0]),
    "new grid": lambda: regridded("several", WAYS[0]),
    "moved zero-point": moved_zero_point,
    "16 bits": lambda: sixteen(zoo.Style(bias="int32")),
    "16 bits, opset 21": lambda: sixteen(zoo.Style(bias="int32", opset=21, dtype="int8")),
    "16 bits, behind a Clip": lambda: sixteen(zoo.Style(bias="int32", bits=4)),
    **{f"gains, {name}": partial(with_gains, name) for name in gained_nets.NETS},
}


def sixteen(style: zoo.Style) -> tuple[Model, Model]:
    """Layers with int32 biases, a sum, and one tensor that two DequantizeLinears read, all with 16 bits."""
    net = zoo.Net(style, x=(3, 6, 6))
    integers = net.q(net.op("Relu", net.conv(net.qdq("x", "mid"))), "low")
    both = [net.dq(integers, out=f"read{k}") for k in range(2)]
    model = net.model(net.qdq(net.op("Add", net.conv(both[0]), both[1]), "mid"))
    return model, lengthened(model)


@cache
def subject(name: str) -> tuple[Model, Model]:
    return SUBJECTS[name]()


def checked(original: Model, new: Model) -> Verification:
    return verify(original, new, random_samples(original, 2, 0), 1)


@pytest.mark.parametrize("name", SUBJECTS)
def test_what_is_declared_passes(name: str) -> None:
    original, new = subject(name)
    v = checked(original, new)
    assert not v.failures
    assert v.regridded + v.rescaled > 0 and v.as_dict()["oracle"]["regridded_quantizers"] == v.regridded
    assert checked(new, new).regridded == 0, "what the original declares is no edit"


def test_what_is_said_of_a_tensor_that_is_not_there() -> None:
    """Neural Compressor leaves the shapes of tensors that its fusions have taken away."""
    original, new = (onnx.ModelProto.FromString(m.SerializeToString()) for m in subject("left out"))
    for model in (original, new):
        model.graph.value_info.append(onnx.helper.make_tensor_value_info("taken_away", onnx.TensorProto.FLOAT, [2]))
    assert not checked(original, new).failures
    new.graph.value_info[-1].type.tensor_type.shape.dim[0].dim_value = 3
    assert any("'taken_away'" in why for why in checked(original, new).failures)


@pytest.mark.parametrize("kind", mutations.KINDS)
@pytest.mark.parametrize(
    "name", ["left out", "split, read by a layer", "moved zero-point", "16 bits", "gains, convs", "gains, norm"]
)
def test_mutations(name: str, kind: str) -> None:
    original, new = subject(name)
    feed = next(random_samples(original, 8, 0).batches(8, 8))
    for bad, what in mutations.mutants(new, kind, len(name), feed, 2):
        assert checked(original, bad).verdict == "FAILED", what


def declared(new: Model) -> list[dict[str, object]]:
    return [e for p in new.metadata_props if p.key == GRIDS for e in json.loads(p.value)]


def redeclared(new: Model, entries: object) -> Model:
    bad = mutations.copy_of(new)
    for p in bad.metadata_props:
        if p.key == GRIDS:
            p.value = json.dumps(entries)
    return bad


@pytest.mark.parametrize("name", [n for n in SUBJECTS if n != "new grid"])
def test_declarations(name: str) -> None:
    """Every entry that is taken away, is there twice, or says something else, is missed."""
    original, new = subject(name)
    entries = declared(new)
    assert entries
    wrong: list[object] = [None, "text", [1], [*entries, entries[0]]]
    wrong += [[f for f in entries if f is not e] for e in entries]
    for k, e in enumerate(entries):
        for key, value in e.items():
            others = {"identity": "none", "before": 99, "now": 99, "parts": [], "edit": "gone", "type": "uint8",
                      "octaves": [1], "sources": [["nobody", 1]], "layers": ["nobody"]}  # fmt: skip
            other = others.get(key, "nobody")
            wrong.append([*entries[:k], {**e, key: None if value == other else other}, *entries[k + 1 :]])
    for w in wrong:
        assert checked(original, redeclared(new, w)).verdict == "FAILED", w


def test_parts_say_what_they_are() -> None:
    original, new = subject("split")
    entries = declared(new)
    (at,) = [k for k, e in enumerate(entries) if e["edit"] == "split"]
    parts = entries[at]["parts"]
    assert isinstance(parts, list)
    for key, value in {"input": 7, "names": ["a", "b"], "scale": 0.5, "zero_point": 3, "quantized": "x"}.items():
        other = [{**parts[0], key: value}, *parts[1:]]
        bad = redeclared(new, [*entries[:at], {**entries[at], "parts": other}, *entries[at + 1 :]])
        assert checked(original, bad).verdict == "FAILED", key
    for value in (0.0, -1.0, float("nan"), float("inf"), 0.1):  # the last is no float32
        bad = redeclared(new, [{**entries[at], "parts": [{**parts[0], "scale": value}, *parts[1:]]}])
        assert checked(original, bad).verdict == "FAILED", value


def test_a_relu_must_not_be_left_out() -> None:
    """A quantizer that saturates at 0 where its input goes below stands for a ReLU."""
    original = detectors.build("rectified")
    new = mutations.copy_of(original)
    dq = next(n for n in new.graph.node if "y" in n.output)
    q = next(n for n in new.graph.node if dq.input[0] in n.output)
    new.graph.node.remove(dq)
    new.graph.node.append(onnx.helper.make_node("Identity", [q.input[0]], ["y"], name="y/Identity"))
    new.graph.node.remove(q)
    for t in [t for t in new.graph.initializer if t.name in (*q.input, *dq.input)]:
        new.graph.initializer.remove(t)
    new.metadata_props.add(
        key=GRIDS, value=json.dumps([{"edit": "left out", "dequantized": "y", "identity": "y/Identity"}])
    )
    assert "stands for a ReLU" in "; ".join(checked(original, new).failures)


# ---- a rewriter that makes mistakes ---------------------------------------------------------------------------------


def other_source(patch: Patch) -> None:
    """The output is written from another tensor."""
    real = EditableGraph.add_node

    def add(self: EditableGraph, op: str, inputs: list[str], output: str, *a: object, **k: object) -> str:
        if op == "Identity":
            inputs = [self.producer[inputs[0]].input[0]]
        return real(self, op, inputs, output, *a, **k)  # type: ignore[arg-type]

    patch.setattr(EditableGraph, "add_node", add)


def undeclared(patch: Patch) -> None:
    patch.setattr(mend, "record_edits", lambda *_: None)
    patch.setattr(lengthen, "record_edits", lambda *_: None)


def other_scale(patch: Patch) -> None:
    """Parts get another step than is declared."""
    real = EditableGraph.add_initializer
    patch.setattr(
        EditableGraph,
        "add_initializer",
        lambda self, name, value: real(self, name, value * np.float32(1.01) if name.endswith("_scale") else value),
    )


def other_zero_point(patch: Patch) -> None:
    real = EditableGraph.add_initializer
    patch.setattr(
        EditableGraph,
        "add_initializer",
        lambda self, name, value: real(
            self, name, value + np.asarray(1, value.dtype) if name.endswith(("_zero_point", "_moved", "_16")) else value
        ),
    )


def one_reader_forgotten(patch: Patch) -> None:
    """Somebody still reads the DequantizeLinear, or its old zero-point."""
    real, seen = EditableGraph.set_input, set[int]()

    def set_input(self: EditableGraph, node: onnx.NodeProto, index: int, tensor: str) -> None:
        if id(self) in seen:
            real(self, node, index, tensor)
        seen.add(id(self))

    patch.setattr(EditableGraph, "set_input", set_input)


def layers_too(patch: Patch) -> None:
    """Layers lose their quantized input."""
    patch.setattr(edits, "LAYERS", ())


def other_step(patch: Patch) -> None:
    """The step is another one than is declared: the last bit of it."""
    real = EditableGraph.add_initializer

    def add(self: EditableGraph, name: str, value: np.ndarray) -> str:
        wrong = name.endswith("_scale_rescaled") and value.size == 1
        return real(self, name, np.nextafter(value, np.float32(1)) if wrong else value)

    patch.setattr(EditableGraph, "add_initializer", add)


def declared_step(patch: Patch) -> None:
    """The wrong step, and declared so: the range is the old one no more, and biases follow the right one."""
    real = bits16.rescale
    patch.setattr(bits16, "rescale", lambda graph, region, *more: real(graph, region, *more) or off(graph, region))

    def off(graph: EditableGraph, region: Region) -> None:
        for n in region.nodes:
            scale = graph.constant(n.input[1])
            graph.set_input(n, 1, graph.add_initializer("off", scale * np.float32(2)))


def bias_forgotten(patch: Patch) -> None:
    patch.setattr(rescale, "tied_bias", lambda *_: None)


def clip_stays(patch: Patch) -> None:
    """What reads the integers still reads the Clip of 8 bits."""
    patch.setattr(bits16, "_without_clip", lambda *_: None)


def domain_stays(patch: Patch) -> None:
    patch.setattr(bits16, "_contrib", lambda _: False)


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("16 bits", other_zero_point),
        ("16 bits", other_step),
        ("16 bits", declared_step),
        ("16 bits", bias_forgotten),
        ("16 bits", one_reader_forgotten),
        ("16 bits", undeclared),
        ("16 bits", domain_stays),
        ("16 bits, opset 21", other_zero_point),
        ("16 bits, opset 21", bias_forgotten),
        ("16 bits, behind a Clip", clip_stays),
        ("16 bits, behind a Clip", one_reader_forgotten),
        ("left out, of several", other_source),
        ("left out", undeclared),
        ("left out, read by a layer", one_reader_forgotten),
        ("split", other_scale),
        ("split", other_zero_point),
        ("split", one_reader_forgotten),
        ("split", undeclared),
        ("split, read by a layer", layers_too),
        ("moved zero-point", other_zero_point),
        ("moved zero-point", one_reader_forgotten),
    ],
)
def test_mistakes_are_found(name: str, mistake: Callable[[Patch], None], monkeypatch: Patch) -> None:
    original, good = subject(name)
    mistake(monkeypatch)
    _, bad = SUBJECTS[name]()
    assert bad.SerializeToString() != good.SerializeToString(), "the mistake was not made"
    assert checked(original, bad).verdict == "FAILED"


def test_a_relu_stays_where_integers_have_16_bits() -> None:
    """Its zero-point must lie at the end of the type still."""
    original, new = subject("16 bits")
    entries = declared(new)
    (k,) = [k for k, e in enumerate(entries) if e["before"] == 0]
    bad = redeclared(new, [*entries[:k], {**entries[k], "now": 5}, *entries[k + 1 :]])
    assert "as a ReLU does" in "; ".join(checked(original, bad).failures)
