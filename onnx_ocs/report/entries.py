"""The report's entries of what a pass looked at, as types: quantized activations, blocks, layers.

Values of a quantizer are one number, or a list with one for each channel.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

__all__ = [
    "CompensationEntry", "GridEntry", "HistogramEntry", "Reason", "ReconstructionEntry", "RegionEntry", "TensorError",
]  # fmt: skip

Numbers = float | list[float]
Integers = int | list[int]


class Reason(TypedDict):
    """Why something was not done.

    Attributes:
        code: stable identifier.
        message: one sentence, with the numbers.
        node: the node that decides.
    """

    code: str
    message: str
    node: str


# ---- activations ----------------------------------------------------------------------------------------------------


class TensorError(TypedDict):
    """How far a tensor is from what the float model has there.

    Attributes:
        isolated_before_db: by its own quantizer alone.
        isolated_after_db: the same, rewritten.
        accumulated_before_db: by all quantizers up to there.
        accumulated_after_db: the same, rewritten.
        samples: number of samples.
    """

    isolated_before_db: NotRequired[float | None]
    isolated_after_db: NotRequired[float | None]
    accumulated_before_db: NotRequired[float | None]
    accumulated_after_db: NotRequired[float | None]
    samples: int


class HistogramEntry(TypedDict):
    """The values that are not 0.

    Attributes:
        range: of the bins, which have the same width.
        counts: of every bin.
        saved: of every bin, the values that the old range clips and the new one does not.
    """

    range: list[float]
    counts: list[int]
    saved: list[int]


_Passed = TypedDict("_Passed", {"pass": str})


class RegionEntry(_Passed):
    """One quantized activation.

    Attributes:
        status: what was done; "candidate" is the word of `inspect` for what would be.
        pass: the pass that looked at it.
        tensor: float input of the QuantizeLinear in the original model.
        quantizers: what its QuantizeLinear nodes write.
        axis: of the channels.
        channels: their number.
        activation: the function that writes the tensor.
        producer: the layer in front of it.
        scale_before: the step of the original.
        scale: the step now.
        zero_point: of the quantizer.
        qmin: smallest integer that the quantizer really has.
        qmax: largest integer.
        x_clip: largest value that it expresses.
        x_clip_after: the same with copies and the new step, of the channel with most copies.
        copies: of every channel, on the upper side.
        copies_low: of every channel, on the lower side.
        mode: how the copies are made: "early", "late", "rescale" (another step alone), "carried" (follows another
            tensor).
        full: whether every copy holds a range of its own, qmin to qmax, as early copies do in front of a quantizer
            that does not saturate at 0.
        consumers: the nodes that read the wide value.
        reason: why nothing was done.
        share_clipped: share of the mass that lies above x_clip.
        range_used: share of the quantizer's range that values reach.
        error: on the calibration samples.
        mass_saved: share of sum |a - clip(a)| that the new range saves; null where nothing was clipped.
        histogram: of the values; null where all are 0.
        sqnr_alone_db: of the model's output with this quantizer alone.
        share_alone: its squared error as a share of that of all quantizers.
    """

    status: Literal["applied", "refused", "candidate"]
    tensor: str
    quantizers: list[str]
    axis: int | None
    channels: int | None
    activation: str
    producer: str
    scale_before: Numbers | None
    scale: Numbers | None
    zero_point: Integers | None
    qmin: int | None
    qmax: int | None
    x_clip: Numbers | None
    x_clip_after: Numbers | None
    copies: list[int]
    copies_low: list[int]
    mode: str | None
    full: bool
    consumers: list[str]
    reason: Reason | None
    share_clipped: NotRequired[float | None]
    range_used: NotRequired[float | None]
    error: NotRequired[TensorError]
    mass_saved: NotRequired[float | None]
    histogram: NotRequired[HistogramEntry | None]
    sqnr_alone_db: NotRequired[float | None]
    share_alone: NotRequired[float | None]


class GridEntry(_Passed):
    """One quantizer that kills channels of outputs, or whose range sits wrong, and what mends it.

    Attributes:
        status: what was done; "candidate" is the word of `inspect`.
        pass: the pass that looked at it.
        tensor: float input of the QuantizeLinear in the original model.
        quantizers: what its QuantizeLinear nodes write.
        dead: by graph output, the channels that are constant behind it and not in the reference.
        edit: "left out"; "split": each input of the Concat in front has a grid of its own; "new grid"; "unsigned": its
            int8 are stored as uint8; "bits16": its integers have 16 bits now, or should; "gains": its channels are
            multiplied by powers of two, which the layers behind it divide by.
        scale_before: the step of the original.
        zero_point_before: of the original.
        scale: the step now.
        zero_point: the integer that stands for 0 now.
        largest: largest absolute value of the channels that are constant behind it.
        reason: why nothing was done.
        type_before: of its integers, where they have 16 bits now.
        type: of its integers now.
        range_before: what it expressed: the smallest and the largest value.
        range: what it expresses now.
        octaves: the smallest and the largest gain of its channels, as exponents of 2.
        error_db: by what its rounding error is smaller, weights' included, on the samples that gains were chosen on.
    """

    status: Literal["applied", "refused", "candidate"]
    tensor: str
    quantizers: list[str]
    dead: dict[str, list[int]]
    edit: str | None
    scale_before: Numbers
    zero_point_before: Integers
    scale: Numbers
    zero_point: Integers
    largest: float | None
    reason: Reason | None
    type_before: NotRequired[str]
    type: NotRequired[str]
    range_before: NotRequired[list[float]]
    range: NotRequired[list[float]]
    octaves: NotRequired[list[int]]
    error_db: NotRequired[float]


# ---- blocks and layers ----------------------------------------------------------------------------------------------


class CompensationEntry(TypedDict):
    """One block, and the branch that mends it.

    Attributes:
        status: whether a branch was added.
        block: the node that writes the block's output.
        kind: what the block is.
        input: tensor that the block reads.
        output: tensor that is mended.
        channels: of the output.
        form: of the branch's weights.
        regressors: what the branch reads.
        alpha: of the transform in front of the weights; 0: linear.
        beta: of the transform behind them.
        rank: of the weights.
        groups: of the weights.
        macs: multiply-accumulates of the branch.
        sqnr_before_db: of the block's output, on samples that no fit has seen.
        sqnr_after_db: the same with the branch.
        reason: why there is none.
    """

    status: Literal["applied", "refused"]
    block: str
    kind: str | None
    input: str | None
    output: str
    channels: NotRequired[int | None]
    form: str | None
    regressors: list[str]
    alpha: float | None
    beta: float | None
    rank: int | None
    groups: int | None
    macs: NotRequired[int]
    sqnr_before_db: float | None
    sqnr_after_db: float | None
    reason: Reason | None


class ReconstructionEntry(TypedDict):
    """One layer whose weights were fitted again.

    Attributes:
        status: whether the new values stay.
        layer: its node.
        weight: the initializer of its weight.
        bias: the initializer of its bias.
        changed: share of the weight's integers that are others now.
        scales_changed: number of scales that are others now.
        ridge: of the fit.
        error_before_db: of the layer's output, on samples that no fit has seen.
        error_after_db: the same with the new values.
        reason: why they do not.
    """

    status: Literal["applied", "refused"]
    layer: str
    weight: str | None
    bias: str | None
    changed: float
    scales_changed: int
    ridge: float | None
    error_before_db: float | None
    error_after_db: float | None
    reason: Reason | None
