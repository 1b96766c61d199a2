"""What the verbs share: the samples that they see, and what they measure against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.declared import input_specs
from onnx_ocs.calibration.drawn import random_samples, usual_size
from onnx_ocs.calibration.feed import one_sample
from onnx_ocs.calibration.judging import EVERYTHING, Judging
from onnx_ocs.calibration.samples import Samples, Source, open_samples
from onnx_ocs.errors import UserError
from onnx_ocs.measurement.tensor_errors import measure_layers
from onnx_ocs.model.graph import Graph, tensor_outputs
from onnx_ocs.model.nodes import Array
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.probes.reference import reference
from onnx_ocs.qoperator.recognise import integer_operators
from onnx_ocs.regions.find import find_regions, guessed_bounds
from onnx_ocs.regions.relu6 import Bounded
from onnx_ocs.report.format import counted
from onnx_ocs.verbs.checks import check_graph, check_qdq, check_runs, load
from onnx_ocs.verbs.qoperator import converted

__all__ = [
    "VERIFIED_SAMPLES",
    "Model",
    "Opened",
    "first_sample",
    "guess_notes",
    "open_model",
    "proof_samples",
    "ranked_by",
    "reference_model",
    "sample_shapes",
    "with_errors",
]

Model = onnx.ModelProto | str | Path
ESTIMATED = "estimated from weights, biases and quantization parameters (no calibration data)"
MEASURED = "outlier mass on the calibration data"
VERIFIED_SAMPLES = 4


def ranked_by(
    samples: Samples | None, limit: int | None = None, planned: str | None = None, made_before: bool = False
) -> str:
    """What steps and copies go by, for the report.

    Args:
        samples: calibration samples; None without.
        limit: most of these.
        planned: the plan that was chosen; None where none was made.
        made_before: whether a plan was given.
    """
    if planned is None and made_before:
        return "a plan that was made before"
    if samples is None:
        return ESTIMATED
    by = MEASURED if planned is None else f"planned by measured error: {planned}"
    return f"{by} ({samples.described(limit)})"


@dataclass(frozen=True)
class Opened:
    """A model that was read and checked, and its samples.

    Attributes:
        model: the model, converted to QDQ where that was asked for.
        samples: None without calibration samples.
        converted: whether it is another one than that of the file.
        notes: what is worth knowing.
    """

    model: onnx.ModelProto
    samples: Samples | None
    converted: bool
    notes: tuple[str, ...]


def open_model(
    model: Model,
    calib: Source | None,
    limit: int | None,
    seed: int,
    convert_qoperator: bool,
    judging: Judging = EVERYTHING,
    must_load: bool = False,
) -> Opened:
    """Read and check a model and its samples.

    Args:
        model: the model or its path; not changed.
        calib: calibration samples; None without.
        limit: most samples.
        seed: of random samples, on which a conversion is proven where there are no others.
        convert_qoperator: whether integer operators are converted to QDQ first.
        judging: which outputs count; with a metric, samples carry their labels.
        must_load: whether onnxruntime must load the model.

    Raises:
        UserError: the model or the samples cannot be used.
    """
    read = load(model)
    proto, notes = read, list[str]()
    if convert_qoperator and integer_operators(read):
        check_graph(read)
        check_runs(read)
        # once: a reader that can be read only once is kept, and the inputs stay what they are
        calib = None if calib is None else open_samples(calib, read, limit, judging.metric is not None)
        proto, notes = converted(read, proof_samples(read, calib, seed))
    notes += check_qdq(proto)
    check_graph(proto)
    judging.check(tensor_outputs(proto))
    samples = None if calib is None else open_samples(calib, proto, limit, judging.metric is not None)
    if samples is not None or must_load:
        check_runs(proto, None if samples is None else next(samples.batches(1, 1)), must_load)
    return Opened(proto, samples, proto is not read, tuple(notes))


def first_sample(model: onnx.ModelProto, samples: Samples) -> dict[str, Array]:
    """One sample, also where the user gives batches."""
    return one_sample(model, next(samples.batches(1, 1)))


def sample_shapes(model: onnx.ModelProto, fed: Callable[[], Samples]) -> dict[str, list[int]] | None:
    """Shapes of one sample's inputs; None where no size is known at which the model runs."""
    try:
        samples = fed()
    except UserError:
        return None
    return {k: list(v.shape) for k, v in first_sample(model, samples).items()}


def reference_model(model: onnx.ModelProto, float_model: Model | None) -> tuple[onnx.ModelProto, str]:
    """What a model is measured against, and what that is called."""
    if float_model is not None:
        return load(float_model), "float model"
    regions = find_regions(Graph(model), infer_shapes(model))
    return reference(model, regions), "QDQ model without its activation quantizers"


def guess_notes(model: onnx.ModelProto, bounded: Bounded) -> list[str]:
    """A note about quantizers that are taken for folded ReLU6s."""
    n = len(guessed_bounds(model, bounded))
    if not n:
        return []
    return [
        f"{counted(n, 'quantizer')} that a layer feeds directly {'is' if n == 1 else 'are'} taken for folded ReLU6, "
        "since the largest range of such quantizers is 6: a guess, layer by layer decided by --float"
    ]


def with_errors(
    entries: Sequence[Mapping[str, Any]], original: onnx.ModelProto, new: onnx.ModelProto | None, context: Context
) -> tuple[dict[str, Any], ...]:
    """The report's entries with each tensor's own error, and what has piled up until there."""
    found = measure_layers(original, new, context)
    return tuple({**e, **found.get(tuple(e.get("quantizers", ())), {})} for e in entries)


def proof_samples(model: onnx.ModelProto, samples: Samples | None, seed: int) -> Samples:
    """What models are verified and timed on: the samples, or seeded random ones."""
    if samples is not None:
        return samples
    return random_samples(model, VERIFIED_SAMPLES, seed, _input_ranges(model), usual_size(model, seed))


def _input_ranges(model: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """For random inputs: what the quantizers that read a graph input directly can express."""
    graph = Graph(model)
    ranges = {}
    floats = {s.name for s in input_specs(model) if s.dtype.kind == "f"}
    for r in find_regions(graph, infer_shapes(model)):
        if r.tensor in floats and r.quantizer is not None:
            ranges[r.tensor] = (-float(r.quantizer.x_low.max()), float(r.quantizer.x_clip.max()))
    return ranges
