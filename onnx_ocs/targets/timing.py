"""In which runtime models are timed and judged: the target's own where it is installed, else onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx

from onnx_ocs.model.nodes import Array
from onnx_ocs.runtime import openvino
from onnx_ocs.runtime.session import Session
from onnx_ocs.targets.choice import Runtime, is_timed

__all__ = ["ONNXRUNTIME", "Timing", "timing_of"]

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]


@dataclass(frozen=True)
class Timing:
    """A runtime that models are timed in, with one thread.

    Attributes:
        name: its name, for readers.
        load: loads a model and gives what makes outputs of a feed; raises one of `RUN_ERRORS` where it does not load.
    """

    name: str
    load: Callable[[onnx.ModelProto], Run]


def _onnxruntime(model: onnx.ModelProto) -> Run:
    return Session(model, "enable_all", threads=1, precise=False).run


def _openvino(model: onnx.ModelProto) -> Run:
    return openvino.Compiled(model).run


ONNXRUNTIME = Timing("onnxruntime", _onnxruntime)
OPENVINO = Timing("OpenVINO", _openvino)


def timing_of(runtime: Runtime) -> Timing:
    """Where files for a target are timed."""
    return OPENVINO if is_timed(runtime) else ONNXRUNTIME
