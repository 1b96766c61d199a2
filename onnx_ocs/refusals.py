"""Why something is not rewritten: one value, and one catalogue of what each code means and what the user can do.

`python -m onnx_ocs.refusals` prints the catalogue as `docs/refusals.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["CATALOGUE", "Meaning", "Refusal", "page"]

Kind = Literal["tensor", "step", "early", "branch", "layer", "grid"]


@dataclass(frozen=True)
class Meaning:
    """What a code means.

    Attributes:
        kind: what is refused: copies for a tensor, another step, copies made early, a block's
            branch, a layer's fit, or another grid.
        why: a clause without a full stop.
        mend: what the user can do; empty where there is nothing to do.
        principle: whether it lies in the model or in the request: the rewrite could not help there, or the algebra
            does not hold.  All others are our limits.
    """

    kind: Kind
    why: str
    mend: str = ""
    principle: bool = False


SHAPES = "export the model with fixed shapes"
WIDER = "a wider range from the quantizer, or `--mode late`"

CATALOGUE: dict[str, Meaning] = {
    # ---- a tensor ----
    "no_weight_consumer": Meaning(
        "tensor",
        "no Conv, ConvTranspose, Gemm or MatMul with a constant weight reads it",
        "with `--calib` the planner re-chooses its step where its quantizer costs the output much (`--rescale`)",
        True,
    ),
    "fold_only": Meaning(
        "tensor",
        "no layer with a constant weight reads it: copies are possible, made in float and folded back for all readers",
        "with `--calib` and a `--budget` above 0 the planner makes them where they are worth their float nodes",
        True,
    ),
    "never_clipped": Meaning(
        "tensor",
        "no value can leave the quantizer's range, so nothing is clipped",
        "only a finer step helps: plan with `--calib`",
        True,
    ),
    "folded_bound": Meaning(
        "tensor",
        "a ReLU6 was folded into the quantizer: copies would let values through that never existed",
        "only a finer step helps: plan with `--calib`; where it is a guess, `--float` decides",
        True,
    ),
    "no_outliers": Meaning(
        "tensor",
        "no channel has outliers on the calibration data, or by the estimate",
        "nothing is lost there; without `--calib` it is an estimate",
        True,
    ),
    "ratio": Meaning("tensor", "the ratio leaves no copy for this tensor", "a larger `--ratio` or `--budget`", True),
    "not_planned": Meaning(
        "tensor",
        "the plan leaves it as it is: nothing that it may spend was better on unseen samples",
        "a larger `--budget`; `inspect --calib` says what the tensor costs",
        True,
    ),
    "excluded": Meaning("tensor", "`--include` or `--exclude` leaves it out", "change these options", True),
    "mode": Meaning(
        "tensor",
        "the mode asked for is not exact here, or would cost an integer kernel",
        "`--mode auto` or `--mode late`",
        True,
    ),
    "target": Meaning(
        "tensor",
        "the target (`--target`) has no operators for its copies",
        "steps and weights are chosen again all the same; another target, where the file may run elsewhere",
        True,
    ),
    "one_sided": Meaning(
        "tensor",
        "zero_point == qmax: the quantizer has no room above zero, so a copy would hold nothing",
        "quantize again with a range above zero",
        True,
    ),
    "float8": Meaning("tensor", "not a uniform grid", "quantize this tensor to integers", True),
    "blocked": Meaning("tensor", "block-wise quantization has no single step along a channel", "", True),
    "bad_scale": Meaning("tensor", "the scale is not a positive number", "mend the file", True),
    "dynamic_parameters": Meaning(
        "tensor", "scale or zero-point is computed at run time", "quantize statically, with calibration data", True
    ),
    "not_dequantized": Meaning("tensor", "no DequantizeLinear with the same parameters reads it", "", True),
    "unknown_channels": Meaning("tensor", "the number of channels is not known", SHAPES),
    "unknown_rank": Meaning(
        "tensor",
        "the rank of the tensor, or of one behind it, is not known, so the channel axis cannot be addressed",
        SHAPES,
    ),
    "half_precision": Meaning(
        "tensor", "the float type cannot hold X_clip exactly enough", "keep the scales in float32"
    ),
    "loses": Meaning(
        "tensor",
        "all that was done together makes the output on calibration samples worse, so it was not applied",
        "more calibration samples, or a larger budget",
    ),
    "by_chance": Meaning(
        "tensor",
        "what all that was done together wins lies in so few calibration samples that it may be chance, so it was not "
        "applied",
        "more calibration samples",
    ),
    "no_difference": Meaning(
        "tensor",
        "all that was done together brings +0.00 dB at every output on calibration samples, so it was not applied",
        "nothing is lost there; more calibration samples may show more",
        True,
    ),
    "already_translated": Meaning(
        "tensor", "an earlier run has been here: start from the original", "give the original file", True
    ),
    # ---- a step ----
    "integers_leave": Meaning("step", "somebody else reads the integers, so their step must stay"),
    "joined": Meaning("step", "a quantizer on the same grid reads other values too, so their step must stay"),
    "bias_range": Meaning("step", "an int32 bias would overflow at the new step"),
    # ---- early copies ----
    "early_activation": Meaning("early", "what stands in front does not act as a ReLU for this quantizer"),
    "early_bound": Meaning("early", "a Clip's bound leaves no room for copies", WIDER),
    "early_producer": Meaning("early", "no Conv, ConvTranspose, Gemm or MatMul makes the value"),
    "early_grouped": Meaning("early", "a grouped producer would need its input repeated as well"),
    "early_shared": Meaning("early", "others read the producer's value too, so it must stay as it is"),
    "early_axis": Meaning("early", "the producer's rows are not the channels that the readers add up"),
    "early_weight": Meaning("early", "the producer's weight is not a constant that can be repeated"),
    "early_bias": Meaning("early", "the producer has no bias that can be shifted by channel"),
    "early_bias_range": Meaning("early", "the shifted bias would overflow"),
    "early_bias_step": Meaning("early", "the bias has too coarse a step to be shifted by X_clip"),
    "early_range": Meaning("early", "a channel's X_clip is not positive"),
    "early_low": Meaning("early", "copies on the lower side need late mode"),
    "early_reader": Meaning("early", "a reader cannot take the constant that copies of a whole range stand at"),
    # ---- a branch ----
    "no_samples": Meaning("branch", "branches are fitted on calibration samples", "give `--calib`"),
    "few_samples": Meaning(
        "branch",
        "fewer than 16 calibration samples, or all in one batch, so that none could be held out",
        "more samples, or smaller batches",
    ),
    "translated_before": Meaning(
        "branch",
        "this file was widened in an earlier run: start from the original, with both passes",
        "`--passes translate,compensate` on the original",
    ),
    "no_gain": Meaning(
        "branch",
        "no branch reduces the error on held-out samples, by 2 % and by more than chance explains",
        "more samples may show smaller gains",
    ),
    "no_end_gain": Meaning("branch", "it mends the block, but not the model's output on held-out samples"),
    "budget": Meaning("branch", "the budget for branches is spent where it brings more", "a larger `--nbc-budget`"),
    "integer_kernel": Meaning("branch", "the layer that writes it would lose its integer kernel"),
    "widened": Meaning("branch", "an earlier pass has changed its shape"),
    "gained": Meaning("branch", "its channels have gains, so its values are not the float model's"),
    "many_channels": Meaning("branch", "it has more channels than the equations of a branch have room for"),
    "not_float": Meaning("branch", "its values are not float32"),
    "channel_axis": Meaning("branch", "the channels are neither the second nor the last axis"),
    # ---- a layer that is fitted again ----
    "weight_form": Meaning("layer", "its weight is not stored on a grid that can be given new values"),
    "weight_shared": Meaning("layer", "somebody else reads the weight, or reads it otherwise, so it must stay"),
    "bias_form": Meaning("layer", "its bias is not one constant per output channel"),
    "too_wide": Meaning("layer", "each output reads more inputs than the equations have room for"),
    "copies": Meaning("layer", "copies that an earlier pass made could not be followed"),
    "no_target": Meaning("layer", "no tensor of the float model is what this layer writes", "give `--float`"),
    "few_rows": Meaning("layer", "too few samples reach it", "more calibration samples"),
    "not_finite": Meaning("layer", "values are not finite there"),
    "taken_back": Meaning("layer", "with it the output on samples that it was not fitted on is no better"),
    # ---- a quantizer that kills channels of an output, or sits wrong ----
    "mixed": Meaning("grid", "no single grid holds both its large and its small channels"),
    "acts": Meaning("grid", "it saturates where an activation would, so it must stay as it is"),
    "kernel": Meaning("grid", "layers read it with their integer kernels, so it must stay"),
    "typed": Meaning("grid", "an attribute of its quantizers says which type their integers have"),
    "still_worse": Meaning(
        "grid", "on samples that the grids were not chosen on, an output is no better", "more calibration samples"
    ),
}


@dataclass(frozen=True)
class Refusal:
    """Why something is not rewritten.

    Attributes:
        code: stable identifier, a key of `CATALOGUE`.
        message: one sentence with the numbers.
        node: the node that decides.
    """

    code: str
    message: str
    node: str

    def __post_init__(self) -> None:
        if self.code not in CATALOGUE:
            raise KeyError(f"refusal '{self.code}' is not in the catalogue")

    @staticmethod
    def of(code: str, node: str, more: str = "") -> Refusal:
        """A refusal in the catalogue's words, with more behind them."""
        return Refusal(code, CATALOGUE[code].why + more, node)

    def as_dict(self) -> dict[str, str]:
        """The `reason` entry of the report."""
        return {"code": self.code, "message": self.message, "node": self.node}


TITLES: dict[Kind, tuple[str, str]] = {
    "tensor": ("A tensor gets no copies", "Reasons in the report's `regions`."),
    "step": ("A step cannot be changed", "The planner then leaves the step as it is."),
    "early": (
        "Copies cannot be made early",
        "With `--mode auto` they are made late instead. With `--mode early` and `--mode integer` the message of the "
        "code `mode` names the reason.",
    ),
    "layer": (
        "A layer is not fitted again",
        "Reasons in the report's `reconstructions`; `bias_range` and `no_gain` too.",
    ),
    "grid": (
        "A quantizer gets no other grid",
        "Reasons in the report's `grids`; `integers_leave`, `joined`, `bias_range` and those of tensors too.",
    ),
    "branch": ("A block gets no branch", "Reasons in the report's `compensations`."),
}


def page() -> str:
    """The catalogue as a page of the documentation, Markdown."""
    lines = [
        "# Why something was left alone",
        "",
        "<!-- Generated: python -m onnx_ocs.refusals > docs/refusals.md -->",
        "",
        "Each refusal has a code, a sentence with the numbers, and the node that decides. The tables say what a code",
        "means and what you can do. Codes marked \\* lie in the model or in your options; the others are our limits.",
    ]
    for kind, (title, words) in TITLES.items():
        lines += ["", f"## {title}", "", words, "", "| code | meaning | what you can do |", "|---|---|---|"]
        found = ((code, m) for code, m in CATALOGUE.items() if m.kind == kind)
        star = {True: " \\*", False: ""}
        lines += [f"| `{code}`{star[m.principle]} | {m.why} | {m.mend or '-'} |" for code, m in found]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
