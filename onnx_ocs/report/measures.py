"""The report's entries of what was measured, as types: outputs, quality, cost, time, the proof, the machine.

Decibels are null where there is nothing to tell apart: the error is 0, or JSON has no word for the number.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

__all__ = [
    "CostEntry",
    "EnvironmentEntry",
    "GroupEntry",
    "LatencyEntry",
    "LevelEntry",
    "OnTargetEntry",
    "OracleEntry",
    "OutputEntry",
    "QualityEntry",
    "VerificationEntry",
]


class GroupEntry(TypedDict):
    """Channels of an output whose scale is about the same.

    Attributes:
        channels: their numbers.
        sqnr_before_db: over these channels.
        sqnr_after_db: the same, rewritten.
    """

    channels: list[int]
    sqnr_before_db: float | None
    sqnr_after_db: float | None


class OutputEntry(TypedDict):
    """One graph output, against the reference's.

    Attributes:
        name: of the output.
        kind: "scores": of classes, "labels": integers, judged by agreement.
        sqnr_before_db: 10 log10(sum ref^2 / sum (ref - out)^2) over all samples; null for labels.
        sqnr_after_db: the same, rewritten.
        agreement_before: share of the reference's answers, 0..1; null for values.
        agreement_after: the same, rewritten.
        constant_channels_before: channels that never change on the samples, while the reference's do.
        constant_channels: the same, rewritten.
        groups: channels whose scales are orders of magnitude apart; empty where there is one scale.
        samples: number of samples.
        weight: how much it counts; 0: not at all.
    """

    name: str
    kind: Literal["values", "scores", "labels"]
    sqnr_before_db: float | None
    sqnr_after_db: float | None
    agreement_before: float | None
    agreement_after: float | None
    constant_channels_before: list[int]
    constant_channels: list[int]
    groups: list[GroupEntry]
    samples: int
    weight: float


class OnTargetEntry(TypedDict):
    """The graph outputs in the runtime that the file is for, as it optimizes both models.

    Attributes:
        runtime: its name.
        outputs: one entry for each.
    """

    runtime: str
    outputs: list[OutputEntry]


class CostEntry(TypedDict, total=False):
    """What the model costs; integer kernels are null where onnxruntime does not load it.

    Attributes:
        macs_before: multiply-accumulates of one sample.
        macs_after: the same, rewritten.
        params_before: elements of all initializers.
        params_after: the same, rewritten.
        bytes_before: of the file and its side files.
        bytes_after: the same, rewritten.
        nodes_before: of the main graph.
        nodes_after: the same, rewritten.
        integer_kernels_before: layers that onnxruntime runs with integer kernels.
        integer_kernels_after: the same, rewritten.
        integer_operators_before: these layers, and all other operators that onnxruntime runs on integers.
        integer_operators_after: the same, rewritten.
        transposes_before: Transposes in onnxruntime's optimized graph.
        transposes_after: the same, rewritten.
    """

    macs_before: int
    macs_after: int
    params_before: int
    params_after: int
    bytes_before: int
    bytes_after: int
    nodes_before: int
    nodes_after: int
    integer_kernels_before: int | None
    integer_kernels_after: int | None
    integer_operators_before: int | None
    integer_operators_after: int | None
    transposes_before: int | None
    transposes_after: int | None


class LatencyEntry(TypedDict):
    """Time of one sample, one thread; null where it was not measured.

    Attributes:
        before_ms: milliseconds, of the shortest runs.
        after_ms: what the ratio makes of them.
        ratio: after / before, of the shortest runs of either, which took turns.
        tolerance: how far the ratio may be off, by what its parts are apart.
        limit: the largest ratio that was asked for; null where time does not count.
        runtime: where both ran; reports of earlier versions lack it, and mean onnxruntime.
    """

    before_ms: float | None
    after_ms: float | None
    ratio: float | None
    tolerance: float | None
    limit: float | None
    runtime: NotRequired[str | None]


class QualityEntry(TypedDict):
    """The first output, against the reference's; all of them are in `outputs`.

    Attributes:
        sqnr_before_db: 10 log10(sum ref^2 / sum (ref - out)^2) over all samples; null for labels.
        sqnr_after_db: the same, rewritten.
        agreement_before: share of the reference's answers, 0..1; null where it holds neither scores nor labels.
        agreement_after: the same, rewritten.
        samples: number of samples.
        reference: what the quality is measured against.
        metric_before: the user's own figure over all outputs.
        metric_after: the same, rewritten.
    """

    sqnr_before_db: float | None
    sqnr_after_db: float | None
    agreement_before: float | None
    agreement_after: float | None
    samples: int | None
    reference: str | None
    metric_before: NotRequired[float]
    metric_after: NotRequired[float]


class LevelEntry(TypedDict):
    """One comparison in onnxruntime, at an optimization level.

    Attributes:
        level: of the optimizer.
        max_abs: largest difference of a float graph output; null where it is infinite.
        max_steps: largest difference of quantized values, in steps.
        mismatch_fraction: share of quantized values that differ.
        mismatches_exactly_on_ties: how many of them lie on a rounding tie.
        mean_shift_steps: mean signed difference.
        values: number of quantized values.
        worst: the tensor with the largest difference.
    """

    level: Literal["disable_all", "enable_all"]
    max_abs: float | None
    max_steps: int
    mismatch_fraction: float
    mismatches_exactly_on_ties: int
    mean_shift_steps: float
    values: int
    worst: str


class OracleEntry(TypedDict):
    """What the rewritten model was compared with.

    Attributes:
        translated_quantizers: number of wide quantizers.
        rescaled_quantizers: number of quantizers with another step.
        branches: number of compensation branches.
        refitted_layers: number of layers with other weights.
        regridded_quantizers: number of quantizers that were left out, split, or got another zero-point.
        copies_active: share of the copies' values that were not 0.
        inputs: what was fed.
        original_between_levels: how far the original differs between the levels.
    """

    translated_quantizers: int
    rescaled_quantizers: int
    branches: int
    refitted_layers: NotRequired[int]
    regridded_quantizers: NotRequired[int]
    copies_active: float
    inputs: str
    original_between_levels: LevelEntry | None


class VerificationEntry(TypedDict):
    """Whether the rewritten model is what it says.

    Attributes:
        verdict: the answer.
        failures: what is wrong.
        notes: what is worth knowing.
        levels: the comparisons.
        oracle: what with.
        io_unchanged: whether graph inputs, outputs and opsets are the original's.
        checker: what onnx.checker says.
    """

    verdict: Literal["PASSED", "FAILED"]
    failures: list[str]
    notes: list[str]
    levels: list[LevelEntry]
    oracle: OracleEntry
    io_unchanged: bool
    checker: str


class EnvironmentEntry(TypedDict):
    """Versions and hardware that results depend on.

    Attributes:
        onnx_ocs: version.
        onnxruntime: version.
        onnx: version.
        numpy: version.
        python: version.
        machine: architecture.
        cpu_flags: instruction sets that decide which integer kernels run.
        seed: of everything random.
    """

    onnx_ocs: str
    onnxruntime: str
    onnx: str
    numpy: str
    python: str
    machine: str
    cpu_flags: list[str]
    seed: int
