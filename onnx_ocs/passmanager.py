"""The pass manager: runs passes in order and answers for what they leave.

A model that a pass has edited must pass the checks that the model before it passed, every node that a pass added or
edited carries the pass's name and version, the file says which passes have run, and a second run of a pass must change
nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import onnx

from onnx_ocs.calibration.context import Context
from onnx_ocs.errors import PassError, UserError
from onnx_ocs.model.checker import complaint
from onnx_ocs.model.sizes import without_side_files
from onnx_ocs.records.history import note
from onnx_ocs.runtime.memory import give_back

__all__ = ["PLACES", "Pass", "PassResult", "log_results", "run_passes"]

_LOG = logging.getLogger("onnx_ocs.passmanager")
PLACES = ("tensor", "block", "layer")  # what an entry calls the place that it is about
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
        grids: the report's entries, one for each quantizer that gets another grid, or should.
        sure: whether the pass has found, on samples that it did not learn from, that the model is better by more than
            chance.
    """

    changed: bool
    regions: list[dict[str, Any]] = field(default_factory=list)
    compensations: list[dict[str, Any]] = field(default_factory=list)
    reconstructions: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    grids: list[dict[str, Any]] = field(default_factory=list)
    sure: bool = False


class Pass(Protocol):
    """A pass: typed options as fields, and one method."""

    name: ClassVar[str]
    version: ClassVar[str]

    def run(self, model: onnx.ModelProto, context: Context) -> PassResult:
        """Edit the model in place; match and check first, rewrite only what was accepted."""
        ...


def _check(model: onnx.ModelProto) -> tuple[str, str]:
    """How strict a check the model passes ("full", "basic", "none"), and the complaint of the next stricter one."""
    last, model = "", without_side_files(model, WEIGHTS)
    for level, full in (("full", True), ("basic", False)):
        why = complaint(model, full)
        if why is None:
            return level, last
        last = why
    return "none", last


def run_passes(
    model: onnx.ModelProto,
    passes: Sequence[Pass],
    context: Context,
    level: int = logging.INFO,
    original: onnx.ModelProto | None = None,
) -> tuple[onnx.ModelProto, dict[str, PassResult]]:
    """Run passes on a copy of the model.

    Args:
        model: the model; not changed.
        passes: in order.
        context: samples, seed, progress.
        level: of the summary in the log; what is only tried is no news.
        original: the model before all passes, where some have run already.

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
    context = replace(context, original=model if original is None else original)
    for p in passes:
        new = onnx.ModelProto()
        new.CopyFrom(model)
        after = f" (ran before it: {', '.join(done)})" if done else ""
        give_back()
        try:
            result = p.run(new, context)
            if result.changed:
                note(new, {"pass": p.name, "version": p.version, "options": _options(p)})
                if p.run(new, replace(context, again=True)).changed:
                    raise PassError(f"a second run of the pass '{p.name}' changes its own result{after}")
        except (UserError, PassError):
            raise
        except Exception as e:  # a pass may be another package's
            raise PassError(f"the pass '{p.name}' failed{after}: {type(e).__name__}: {e}") from e
        results[p.name] = result
        done.append(p.name)
        if result.changed:
            new.ir_version = max(new.ir_version, UNLISTED)
            now, why = _check(new)
            if now != "full" and order[now] < order[_check(model)[0]]:
                raise PassError(f"the pass '{p.name}' left a model that onnx.checker rejects{after}: {why}")
            model = new
    log_results(results, level)
    return model, results


def log_results(results: Mapping[str, PassResult], level: int) -> None:
    """One line about all passes, and one about every entry for who wants to know.

    Args:
        results: of the passes, by name.
        level: of the line about all of them.
    """
    told = []
    for name, r in results.items():
        entries = [*r.grids, *r.regions, *r.compensations, *r.reconstructions]
        applied = sum(e.get("status") == "applied" for e in entries)
        told.append(f"{name} {'changed' if r.changed else 'left'} the model ({applied} of {len(entries)} applied)")
        for e in entries:
            place = next((e[k] for k in PLACES if k in e), "")
            _LOG.debug("%s: '%s' %s %s", name, place, e.get("status"), (e.get("reason") or {}).get("message", ""))
    _LOG.log(level, "passes: %s", "; ".join(told) or "none")


def _options(p: Pass) -> dict[str, Any]:
    plan = getattr(p, "plan", None)
    if plan is not None:  # what a plan says takes the place of the other options
        return {"plan": plan.digest()}
    return {k: v for k, v in vars(p).items() if isinstance(v, (str, int, float, bool, tuple))}
