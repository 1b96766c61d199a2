"""The verdict: what is counted, what is noted, and what fails, whatever the files and samples are."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from branch_nets import branched, image_net
from mutations import copy_of
from onnx import helper, numpy_helper

from onnx_ocs.api import rewrite
from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.calibration.samples import Samples
from onnx_ocs.passes.translate import Translate
from onnx_ocs.records.branches import RECORD
from onnx_ocs.verification import verify as module
from onnx_ocs.verification.difference import Difference
from onnx_ocs.verification.verdict import Verification
from onnx_ocs.verification.verify import verify

Model = onnx.ModelProto


@cache
def pair() -> tuple[Model, Model]:
    original = zoo.build("conv_relu_conv")[0]
    return original, rewrite(original, passes=[Translate(0.5, 2, "late")], verify=False).model


def checked(original: Model, new: Model, limit: int = 2) -> Verification:
    return verify(original, new, random_samples(original, 3, 0), limit)


def test_a_right_rewrite_passes_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "onnx_ocs.verification"):
        v = checked(*pair())
    assert v.verdict == "PASSED" and (v.translated, v.rescaled, v.branches, v.refitted) == (1, 0, 0, 0)
    assert v.exact.values and v.optimized is not None and v.original is not None and 0 < v.active < 1
    assert v.io_unchanged and v.checker == "ok (full)" and "random" in v.inputs
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    assert line.startswith("verification: PASSED, 0 new grids, 1 wide quantizers")


def test_integers_of_four_bits_are_compared_as_bytes() -> None:
    original = zoo.build("uint4")[0]
    new = rewrite(original, passes=[Translate(0.5, 2, "late")], verify=False).model
    v = checked(original, new)
    assert v.verdict == "PASSED" and v.translated == 2 and v.exact.values > 0 and v.active > 0


def test_a_model_against_itself() -> None:
    v = checked(pair()[1], pair()[1])
    assert v.verdict == "PASSED" and any("one and the same" in n for n in v.notes)
    assert not v.translated


def failed(change: Callable[[Model], Any]) -> Verification:
    bad = copy_of(pair()[1])
    change(bad)
    v = checked(pair()[0], bad)
    assert v.verdict == "FAILED" and v.failures
    return v


def another_output(m: Model) -> None:
    m.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "M"


def test_inputs_outputs_and_opsets_stay() -> None:
    for change in (
        another_output,
        lambda m: m.graph.input.append(helper.make_tensor_value_info("more", 1, [1])),
        lambda m: m.opset_import[0].__setattr__("version", 18),
        lambda m: m.opset_import.add(domain="com.microsoft", version=1),
    ):
        v = failed(change)
        assert not v.io_unchanged and "graph inputs, outputs or opsets" in v.failures[0]


def test_the_checker_is_asked() -> None:
    v = failed(lambda m: m.graph.node[0].output.append("too_many"))
    assert "onnx.checker rejects the rewritten model" in v.failures[0] and not v.checker.startswith("ok")
    original, new = (copy_of(m) for m in pair())
    for m in (original, new):  # a model that was odd before may stay so
        m.graph.node[-1].attribute.append(helper.make_attribute("odd", 1))
    v = checked(original, new)
    assert v.checker == "the original is rejected" and any("rejects the original" in n for n in v.notes)


def test_a_rewritten_model_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = module.attempt

    def only_the_original(model: Model, level: str) -> Any:
        return attempt(model, level) if model is pair()[0] else "no"

    monkeypatch.setattr(module, "attempt", only_the_original)
    assert checked(*pair()).failures == ["onnxruntime loads the original but not the rewritten model: no"]


def test_an_original_that_does_not_load_is_no_failure() -> None:
    model = copy_of(pair()[1])
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "Nothing", "nobody.knows"
    model.opset_import.add(domain="nobody.knows", version=1)
    v = checked(model, model)
    assert v.verdict == "PASSED" and any("nothing could be compared" in n for n in v.notes)
    assert not v.exact.values


def test_samples_that_fit_nothing() -> None:
    feed = {"x": np.zeros((1, 4, 2), np.float32)}
    v = verify(*pair(), Samples("odd ones", lambda size, limit: iter([(1, feed)])))
    assert v.verdict == "FAILED" and "nothing was compared" in v.failures[0] and v.inputs == "odd ones"


def test_a_large_model_is_run_on_one_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = checked(*pair())
    monkeypatch.setattr(module, "LARGE", 0)
    v = checked(*pair())
    assert v.verdict == "PASSED" and any("the model is large: one sample" in n for n in v.notes)
    assert v.optimized is not None and usual.optimized is not None
    assert usual.optimized.values == 2 * v.optimized.values


def test_the_optimizer_may_do_what_it_does_to_the_original_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def differences(of_original: int, of_rewritten: int) -> Verification:
        def between(model: Model, *rest: Any) -> Difference:
            count = of_original if model is pair()[0] else of_rewritten
            return Difference(
                values=10_000, mismatches=count, off_tie=count, max_steps=2 * min(count, 1), worst="relu1"
            )

        monkeypatch.setattr(module, "between", between)
        return checked(*pair())

    assert differences(0, 0).verdict == "PASSED"
    v = differences(0, 500)
    assert v.verdict == "FAILED" and "at ORT_ENABLE_ALL 5.000%" in v.failures[0] and "'relu1'" in v.failures[0]
    v = differences(500, 500)
    assert v.verdict == "PASSED" and any("the original itself differs" in n for n in v.notes)


# ---- branches -------------------------------------------------------------------------------------------------------


@cache
def compensated() -> tuple[Model, Model]:
    return branched(image_net)


def test_branches_are_counted() -> None:
    v = checked(*compensated())
    assert v.verdict == "PASSED" and v.branches == 1


def test_the_original_s_branches_stay() -> None:
    model, new = compensated()
    assert checked(new, new).verdict == "PASSED"
    v = checked(new, model)
    assert v.verdict == "FAILED" and any("of the original is missing" in f for f in v.failures)


@pytest.mark.parametrize("text", ["{", "null", '{"output": "y"}', "[]"])
def test_a_damaged_record_of_a_branch(text: str) -> None:
    model, new = compensated()
    bad = copy_of(new)
    next(p for n in bad.graph.node for p in n.metadata_props if p.key == RECORD).value = text
    v = checked(model, bad)
    assert v.verdict == "FAILED" and len(v.failures) == 1 and "cannot be read" in v.failures[0]


def test_a_constant_of_a_branch_that_its_record_does_not_give() -> None:
    model, new = compensated()
    bad, own = copy_of(new), {t.name for t in model.graph.initializer}
    t = next(t for t in bad.graph.initializer if t.name not in own and not t.dims)
    value = numpy_helper.to_array(t)
    t.CopyFrom(numpy_helper.from_array(np.asarray(value * 1.5 + 1, value.dtype), t.name))
    v = checked(model, bad)
    assert v.verdict == "FAILED" and "is not what its record says" in v.failures[0]
