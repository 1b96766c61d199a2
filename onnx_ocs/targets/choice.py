"""Which runtime a file is rewritten for: the names, and the option.  Nothing heavy is imported here."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from onnx_ocs.options import Option

__all__ = ["RUNTIME", "SLACK", "Runtime", "is_timed", "pace_of", "time_of"]

SLACK = 1.15  # times what multiply-accumulates say

Runtime = Literal["ort", "openvino", "tensorrt", "qnn", "generic-int8"]
RUNTIME = Option(
    "The runtime that the file is for; nothing is made that it does not allow. ort: onnxruntime on a CPU; openvino: "
    "its CPU plugin; tensorrt: explicit quantization; qnn: onnxruntime's QNN provider; generic-int8: hardware that "
    "has no float operators at all.",
    flag="--target",
    panel="Translation",
)


def is_timed(runtime: Runtime) -> bool:
    """Whether files for a target are timed in its own runtime, which is installed; else they are in onnxruntime."""
    return runtime == "openvino" and find_spec("openvino") is not None


def time_of(runtime: Runtime, budget: float | None) -> float | None:
    """The ratio of time that a budget of multiply-accumulates stands for; None where it bounds no time.

    In onnxruntime operators that leave the integers are counted, and weighed against the gain: only a plan that takes
    far longer than its multiply-accumulates say is made again (`onnx_ocs.planning.pace`).  In another runtime nobody
    counts them, and a copy may take ten times as long.
    """
    return SLACK * (1 + budget) if budget and is_timed(runtime) else None


def pace_of(runtime: Runtime, budget: float | None, searched: bool) -> float | None:
    """The most time per multiply-accumulate, as a ratio, of a plan within a budget; None where nobody asks.

    Args:
        runtime: the target; files for those that are not run here have no time of their own.
        budget: share of extra multiply-accumulates.
        searched: whether a quality is searched for, which in onnxruntime is done by multiply-accumulates alone.
    """
    asked = is_timed(runtime) if searched else runtime in ("ort", "openvino")
    return SLACK if budget and asked else None
