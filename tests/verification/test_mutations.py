"""Single mutations of finished files: what is compared is always found, what shows in an output too."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache

import mutations
import numpy as np
import onnx
import pytest
import zoo
from random_plans import random_plan
from tally_mutations import DIGITS

from onnx_ocs.api import rewrite
from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.passes.split import Split
from onnx_ocs.passes.translate import Translate
from onnx_ocs.verification.verify import verify

Model = onnx.ModelProto
COMPARED = ("weight", "weight scale", "zero point", "bias", "bias scale", "activation scale", "activation step")


def planned(name: str, seed: int) -> tuple[Model, Model]:
    model = zoo.build(name)[0]
    return model, rewrite(model, passes=[Translate(plan=random_plan(model, seed))], verify=False).model


def translated(model: Model, p: Translate | Split) -> tuple[Model, Model]:
    return model, rewrite(model, passes=[p], verify=False).model


SUBJECTS: dict[str, Callable[[], tuple[Model, Model]]] = {
    "digits": lambda: translated(onnx.load(DIGITS / "digits.w8a2.onnx"), Translate(0.5, 1)),
    "digits, split": lambda: translated(onnx.load(DIGITS / "digits.w8a2.onnx"), Split(0.5)),
    "residual, late": lambda: translated(zoo.build("int8_residual")[0], Translate(1, 2, "late")),
    "int32 biases, early": lambda: translated(zoo.build("bias_int32")[0], Translate(0.5, 2, "early")),
    "int8, both sides, steps": lambda: planned("int8_residual", 4),
    "depthwise, steps": lambda: planned("depthwise_per_channel", 4),
}


@cache
def subject(name: str) -> tuple[Model, Model]:
    return SUBJECTS[name]()


def verdict(original: Model, new: Model) -> str:
    return verify(original, new, random_samples(original, 2, 0), 1).verdict


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_file_itself_passes(name: str) -> None:
    original, new = subject(name)
    checked = verify(original, new, random_samples(original, 2, 0), 1)
    assert not [f for f in checked.failures if not f.startswith("at ORT_ENABLE_ALL")]


@pytest.mark.parametrize("kind", mutations.KINDS)
@pytest.mark.parametrize("name", SUBJECTS)
def test_mutations(name: str, kind: str) -> None:
    original, new = subject(name)
    feed = next(random_samples(original, 8, 0).batches(8, 8))
    for bad, what in mutations.mutants(new, kind, len(name), feed, 5, unseen=kind in COMPARED):
        assert verdict(original, bad) == "FAILED", what


@pytest.mark.parametrize("key", ["onnx_ocs.wide", "onnx_ocs.scale_before", "onnx_ocs.scale"])
def test_declarations(key: str) -> None:
    """Every declaration that is taken away, or says something else, is missed."""
    original, new = subject("int8, both sides, steps")
    places = [(k, j) for k, n in enumerate(new.graph.node) for j, p in enumerate(n.metadata_props) if p.key == key]
    assert places
    for k, j in places:
        entry = json.loads(new.graph.node[k].metadata_props[j].value)
        other = {**entry, "narrow": entry["narrow"] + 1} if isinstance(entry, dict) else 1.01 * np.asarray(entry)
        for value in (
            json.dumps(other if isinstance(other, dict) else other.tolist()),
            "{",
            "null",
            '"text"',
            "[1, 2]",
        ):
            bad = mutations.copy_of(new)
            bad.graph.node[k].metadata_props[j].value = value
            assert verdict(original, bad) == "FAILED", value
        bad = mutations.copy_of(new)
        del bad.graph.node[k].metadata_props[j]
        # without the step now, which older files lack, the file's own is taken
        assert verdict(original, bad) == ("FAILED" if key != "onnx_ocs.scale" else verdict(original, new))


def test_what_surrounds_the_nodes() -> None:
    original, new = subject("digits")

    def metadata(m: Model) -> None:
        m.metadata_props.add(key="author", value="somebody")

    def producer(m: Model) -> None:
        m.producer_name = "somebody"

    def version(m: Model) -> None:
        m.opset_import[0].version += 1

    def initializer(m: Model) -> None:
        m.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(3, np.float32), "stranger"))

    def dead_node(m: Model) -> None:
        m.graph.node.append(onnx.helper.make_node("Relu", [m.graph.input[0].name], ["nobody_reads"], name="dead"))

    def value_info(m: Model) -> None:
        m.graph.value_info.append(onnx.helper.make_tensor_value_info(m.graph.node[0].output[0], 2, [1, 7]))

    def renamed(m: Model) -> None:
        m.graph.node[0].name += "_other"

    for change in (metadata, producer, version, initializer, dead_node, value_info, renamed):
        bad = mutations.copy_of(new)
        change(bad)
        assert verdict(original, bad) == "FAILED", change.__name__


def test_a_missing_node() -> None:
    original, new = subject("digits")
    for k in range(0, len(new.graph.node), 7):
        bad = mutations.copy_of(new)
        del bad.graph.node[k]
        assert verdict(original, bad) == "FAILED", new.graph.node[k].name


@pytest.mark.parametrize("size", ["batch", "kernel", "flatten"])
def test_what_shows_at_other_sizes_only(size: str) -> None:
    """A model that negates its output where the batch is above 1, and shapes that are others."""
    original, new = subject("digits")
    bad = mutations.copy_of(new)
    if size == "batch":
        out, like = bad.graph.output[0].name, next(n for n in bad.graph.node if bad.graph.output[0].name in n.output)
        like.output[list(like.output).index(out)] = "plain"
        one = onnx.numpy_helper.from_array(np.asarray([1], np.int64), "one")
        bad.graph.initializer.append(one)
        add = bad.graph.node.add
        add().CopyFrom(onnx.helper.make_node("Shape", ["plain"], ["s"], start=0, end=1))
        add().CopyFrom(onnx.helper.make_node("Greater", ["s", "one"], ["more"]))
        add().CopyFrom(onnx.helper.make_node("Neg", ["plain"], ["negative"]))
        add().CopyFrom(onnx.helper.make_node("Where", ["more", "negative", "plain"], [out]))
    else:
        op, attribute = {"kernel": ("MaxPool", "kernel_shape"), "flatten": ("Flatten", "axis")}[size]
        n = next(n for n in bad.graph.node if n.op_type == op)
        kept = [a for a in n.attribute if a.name != attribute]
        del n.attribute[:]
        n.attribute.extend([*kept, onnx.helper.make_attribute(attribute, [1, 1] if size == "kernel" else 0)])
    assert verdict(original, bad) == "FAILED"


def test_a_model_against_itself() -> None:
    _, new = subject("digits")
    checked = verify(new, new, random_samples(new, 2, 0), 1)
    assert checked.verdict == "PASSED" and any("one and the same" in n for n in checked.notes)
    assert not checked.translated
