"""The pass manager: runs passes in order and answers for what they leave.

A model that a pass has edited must pass the checks that the model before it passed, every node that a pass added or
edited carries the pass's name and version, the file says which passes have run, and a second run of a pass must change
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import onnx

from onnx_ocs.calibration.context import Context
from onnx_ocs.errors import PassError, UserError, first_line
from onnx_ocs.model.tensors import without_side_files
from onnx_ocs.records.history import _note

__all__ = ["Pass", "PassResult", "run_passes"]

WEIGHTS = 1 << 20  # bytes from which a model is checked without its weights, whose sizes are known to fit
UNLISTED = 4  # the first IR version in which an initializer need not be a graph input


@dataclass(frozen=True)
class PassResult:
    """What a pass did.

    Attributes:
        changed: whether the model was edited.
        regions: the report's entries, one for each quantized activation.
        compensations: the report's entries, one for each block.
        reconstructions: the report's entries, one for each layer with a quantized weight.
        notes: sentences for the user.
    """

    changed: bool
    regions: list[dict[str, Any]] = field(default_factory=list)
    compensations: list[dict[str, Any]] = field(default_factory=list)
    reconstructions: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Pass(Protocol):
    """A pass: typed options as fields, and one method."""

    name: ClassVar[str]
    version: ClassVar[str]

    def run(self, model: onnx.ModelProto, context: Context) -> PassResult:
        """Edit the model in place; match and check first, rewrite only what was accepted."""
        ...


def _check(model: onnx.ModelProto) -> tuple[str, str]:
    """How strict a check the model passes ("full", "basic", "none"), and the complaint of the next stricter one."""
    complaint, model = "", without_side_files(model, WEIGHTS)
    for level, full in (("full", True), ("basic", False)):
        try:
            onnx.checker.check_model(model, full_check=full)
            return level, complaint
        except Exception as e:  # ValidationError, InferenceError, and what protobuf raises for huge models
            complaint = first_line(e)
    return "none", complaint


def run_passes(
    model: onnx.ModelProto, passes: Sequence[Pass], context: Context
) -> tuple[onnx.ModelProto, dict[str, PassResult]]:
    """Run passes on a copy of the model.

    Args:
        model: the model; not changed.
        passes: in order.
        context: samples, seed, progress.

    Returns:
        The new model (the given one when nothing changed), and each pass's result by name.

    Raises:
        PassError: a pass failed, left an invalid model, or would change its own result; it is named, as are those
            that ran before it.
        UserError: the user's mistake, unchanged.
    """
    order = {"full": 2, "basic": 1, "none": 0}
    results: dict[str, PassResult] = {}
    done: list[str] = []
    context = replace(context, original=model)
    for p in passes:
        new = onnx.ModelProto()
        new.CopyFrom(model)
        after = f" (ran before it: {', '.join(done)})" if done else ""
        try:
            result = p.run(new, context)
            if result.changed:
                _note(new, {"pass": p.name, "version": p.version, "options": _options(p)})
                if p.run(new, replace(context, again=True)).changed:
                    raise PassError(f"a second run of the pass '{p.name}' changes its own result{after}")
        except (UserError, PassError):
            raise
        except Exception as e:
            raise PassError(f"the pass '{p.name}' failed{after}: {type(e).__name__}: {e}") from e
        results[p.name] = result
        done.append(p.name)
        if result.changed:
            new.ir_version = max(new.ir_version, UNLISTED)
            now, complaint = _check(new)
            if now != "full" and order[now] < order[_check(model)[0]]:
                raise PassError(f"the pass '{p.name}' left a model that onnx.checker rejects{after}: {complaint}")
            model = new
    return model, results


def _options(p: Pass) -> dict[str, Any]:
    plan = getattr(p, "plan", None)
    if plan is not None:  # what a plan says takes the place of the other options
        return {"plan": plan.digest()}
    return {k: v for k, v in vars(p).items() if isinstance(v, (str, int, float, bool, tuple))}
