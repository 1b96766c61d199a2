"""The verb verify: is the rewritten model what it says it is?"""

from __future__ import annotations

from typing import Any

from onnx_ocs.calibration.samples import Source
from onnx_ocs.measurement.cost import cost
from onnx_ocs.measurement.latency import compared
from onnx_ocs.measurement.quality import compare
from onnx_ocs.records.weights import read_refitted
from onnx_ocs.report.report import assemble
from onnx_ocs.verbs.checks import answers_for_the_model, load
from onnx_ocs.verbs.common import (
    VERIFIED_SAMPLES,
    Model,
    first_sample,
    open_model,
    proof_samples,
    reference_model,
    sample_shapes,
)
from onnx_ocs.verification.verify import verify as verify_models

__all__ = ["verify"]

FITTED = (
    "weights were fitted again: if to a float model, give it (--float); without it the quality is that against the "
    "original's own weights, which they have left"
)


@answers_for_the_model
def verify(
    original: Model,
    rewritten: Model,
    calib: Source | None = None,
    float_model: Model | None = None,
    seed: int = 0,
    limit: int | None = None,
    convert_qoperator: bool = False,
) -> dict[str, Any]:
    """Verify a rewritten model against its original.

    Args:
        original: the model before, or its path.
        rewritten: the model after, or its path.
        calib: samples; without them seeded random inputs.
        float_model: reference of the quality figures.
        seed: of everything random.
        limit: most samples for the quality figures.
        convert_qoperator: the rewritten model was made from the original with its integer operators converted to QDQ.

    Returns:
        The report; `report["verification"]["verdict"]` is "PASSED" or "FAILED".

    Raises:
        UserError: a model or the samples cannot be used.
    """
    opened = open_model(original, calib, limit, seed, convert_qoperator, must_load=True)
    before, after, samples = opened.model, load(rewritten), opened.samples
    fed = proof_samples(before, samples, seed)
    checked = verify_models(before, after, fed, VERIFIED_SAMPLES, seed)
    qualities, against = None, None
    if samples is not None and checked.verdict == "PASSED":
        ref, against = reference_model(before, float_model)
        first, second = compare(ref, [before, after], samples, limit)
        qualities = (first, second)
    notes = list(opened.notes)
    if qualities is not None and float_model is None and read_refitted(after):
        notes.append(FITTED)
    shapes_in = sample_shapes(before, lambda: fed)
    costs = cost(before, shapes_in), cost(after, shapes_in)
    latency = compared(before, after, first_sample(before, fed)) if checked.verdict == "PASSED" else None
    report = assemble(
        "verify", seed, costs=costs, latency=latency, qualities=qualities, reference=against, verification=checked,
        notes=notes,
    )  # fmt: skip
    return dict(report)
