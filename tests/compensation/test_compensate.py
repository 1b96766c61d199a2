"""When nothing is compensated, and why; what is compensated is tested with the pass."""

from __future__ import annotations

import gained_nets
import onnx
import pytest
import zoo

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.compensation.compensate import compensate
from onnx_ocs.errors import UserError
from onnx_ocs.passes import Compensate, Translate
from onnx_ocs.passmanager import run_passes
from onnx_ocs.refusals import CATALOGUE


def run(model: onnx.ModelProto, context: Context, budget: float = 1.0) -> tuple[bool, list[str]]:
    """Compensate a model: whether it was changed, and the notes."""
    before = model.SerializeToString(deterministic=True)
    result = compensate(model, context, budget, ("diagonal",), True, Compensate())
    assert result.changed or model.SerializeToString(deterministic=True) == before
    return result.changed, result.notes


def test_without_samples() -> None:
    model, _ = zoo.build("conv_relu_conv")
    with pytest.raises(UserError, match=CATALOGUE["no_samples"].why):
        run(model, Context())


def test_with_few_samples() -> None:
    model, _ = zoo.build("conv_relu_conv")
    assert run(model, Context(random_samples(model, 4, 0))) == (False, [f"compensate: {CATALOGUE['few_samples'].why}"])


def test_of_a_file_that_was_translated_before() -> None:
    model, _ = zoo.build("conv_relu_conv")
    once, _ = run_passes(model, [Translate()], Context())
    assert once is not model
    assert run(once, Context(random_samples(once, 32, 0))) == (
        False,
        [f"compensate: {CATALOGUE['translated_before'].why}"],
    )


def test_values_with_gains_are_not_the_float_models() -> None:
    """A block that writes what is multiplied is left alone; those before and behind it are not."""
    model = gained_nets.build("gemms")
    new = gained_nets.given(model)
    context = Context(open_samples(gained_nets.samples(model, 64), model), original=model)
    result = compensate(new, context, 1.0, ("diagonal",), True, Compensate())
    why = {e["output"]: (e["reason"] or {}).get("code") for e in result.compensations}
    assert why["relu1"] == "gained" and why["gemm2"] != "gained"
    plain = compensate(gained_nets.build("gemms"), Context(context.samples), 1.0, ("diagonal",), True, Compensate())
    assert all((e["reason"] or {}).get("code") != "gained" for e in plain.compensations)
