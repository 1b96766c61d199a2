"""Whether a model is one that can be worked with: the user's mistakes, told before anything is done.

What no list of checks foresees is answered by `answers_for_the_model`: an unexpected error on a model that
`onnx.checker` or onnxruntime rejects is the model's fault, and is told as that; on a model that both accept it is a
defect of onnx_ocs, and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import onnx

from onnx_ocs.errors import UserError, VerificationError, first_line, shortage
from onnx_ocs.model import files
from onnx_ocs.model.checker import complaint
from onnx_ocs.model.external import attach
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op, label
from onnx_ocs.model.sizes import without_side_files
from onnx_ocs.runtime.session import RUN_ERRORS, Session, attempt_run
from onnx_ocs.verbs.qoperator import check_operators

__all__ = ["answers_for_the_model", "check_graph", "check_qdq", "check_runs", "load"]

P = ParamSpec("P")
R = TypeVar("R")


def load(model: onnx.ModelProto | str | Path) -> onnx.ModelProto:
    """A model from its path, or as it is.

    Raises:
        UserError: it cannot be read, or is damaged.
    """
    if not isinstance(model, onnx.ModelProto):
        return files.load_model(model)
    attach(model, None)
    return model


def check_qdq(model: onnx.ModelProto) -> list[str]:
    """Refuse a model that is not quantized to QDQ; notes for one that is in part, or inside local functions."""
    notes = check_operators(model)
    if notes or any(is_op(n, "QuantizeLinear", "DequantizeLinear") for n in model.graph.node):
        return notes
    if any(is_op(n, "QuantizeLinear", "DequantizeLinear") for f in model.functions for n in f.node):
        return [
            "all QuantizeLinear and DequantizeLinear nodes are inside local functions, which are left intact: inline "
            "them first (onnx.inliner.inline_local_functions)"
        ]
    raise UserError("the model has no QuantizeLinear or DequantizeLinear node: quantize it to QDQ format first")


def check_graph(model: onnx.ModelProto) -> None:
    """Complain about what no pass could work with: tensors that nobody writes, scales that are not finite."""
    if not model.graph.output:
        raise UserError("the model has no outputs, so there is nothing that it computes: export it again")
    graph = Graph(model)
    known = graph.initializers.keys() | graph.inputs | graph.producer.keys()
    known |= {t.values.name for t in model.graph.sparse_initializer}
    for n in graph.nodes:
        missing = next((t for t in n.input if t and t not in known), None)
        if missing is not None:
            raise UserError(
                f"the node '{label(n)}' reads '{missing}', which nobody writes: this is not a valid ONNX graph"
            )
        if is_op(n, "QuantizeLinear", "DequantizeLinear") and len(n.input) > 1:
            scale = graph.constant(n.input[1])
            if scale is not None and not np.all(np.isfinite(scale.astype(np.float64))):
                raise UserError(
                    f"the scale '{n.input[1]}' of '{label(n)}' is not a finite number: quantize the model again"
                )


def check_runs(model: onnx.ModelProto, feed: Mapping[str, Array] | None = None, must_load: bool = True) -> None:
    """Complain about a model that onnxruntime does not load, or a sample that it does not run on.

    Args:
        model: the model.
        feed: the first sample, which may be a picture that is too small for the model's strides.
        must_load: whether to complain about a model that is not loaded; else nothing is said of it.

    Raises:
        UserError: there is something to complain about.
    """
    session = _loaded(model)
    if isinstance(session, str):
        if not must_load:
            return
        raise UserError(
            f"onnxruntime does not load this model ({session}), so a rewrite could not be "
            f"verified: mend the model, or rewrite it unverified with --no-verify"
        )
    why = None if feed is None else attempt_run(session, feed)
    if feed is not None and isinstance(why, str):
        shapes = ", ".join(f"{k} {v.shape}" for k, v in feed.items())
        raise UserError(
            f"the model does not run on the first calibration sample ({shapes}): {why[:300]}: give samples of a size "
            "that the model was made for"
        )


def _loaded(model: onnx.ModelProto) -> Session | str:
    """A session, or why there is none."""
    try:
        return Session(model, "disable_all")
    except RUN_ERRORS as e:
        return first_line(e, 200)


def _complaint(model: onnx.ModelProto) -> str:
    """What onnx.checker, else onnxruntime, has against a model."""
    if why := complaint(without_side_files(model), full=True, most=200):
        return why
    loaded = _loaded(model)
    return loaded if isinstance(loaded, str) else ""


def answers_for_the_model(verb: Callable[P, R]) -> Callable[P, R]:
    """Tell unexpected errors on an invalid model as the model's fault."""

    @wraps(verb)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return verb(*args, **kwargs)
        except (UserError, VerificationError, MemoryError):
            raise
        except Exception as e:  # whatever it is: the question is whose fault
            if shortage(e):
                raise
            models: list[Any] = [m for m in (*args, *kwargs.values()) if isinstance(m, (onnx.ModelProto, str, Path))]
            for m in models[:1]:
                why = _complaint(load(m))
                if why:
                    raise UserError(f"this is not a valid ONNX model ({why}): export or quantize it again") from e
            raise

    return told
