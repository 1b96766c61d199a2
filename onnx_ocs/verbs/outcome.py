"""What a rewrite starts from, and what is known of it so far: frozen, so that every step makes a new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import Samples
from onnx_ocs.errors import UserError
from onnx_ocs.measurement.latency import Compared
from onnx_ocs.measurement.quality import Quality
from onnx_ocs.model import files
from onnx_ocs.model.tensors import has_side_files
from onnx_ocs.passmanager import PLACES
from onnx_ocs.planning.plan import Plan
from onnx_ocs.targets.choice import Runtime
from onnx_ocs.verbs.common import proof_samples, reference_model
from onnx_ocs.verification.verdict import Verification

__all__ = ["OnTarget", "Outcome", "Prepared", "Why", "in_part", "not_applied", "taken_back"]

Entries = tuple[Mapping[str, Any], ...]
KINDS = ("regions", "compensations", "reconstructions", "grids")  # of entries


class Why(NamedTuple):
    """Why a rewrite is not applied as a whole.

    Attributes:
        code: in the catalogue of refusals.
        did: what it did, such as "lost on the calibration data ('y' 20.00 dB -> 10.00 dB)".
    """

    code: str
    did: str


class OnTarget(NamedTuple):
    """How good models are in the runtime that the rewrite is for.

    Attributes:
        runtime: its name, for readers.
        before: the model that was rewritten.
        after: the rewritten one; None where it does not run there.
        failure: why it does not.
    """

    runtime: str
    before: Quality
    after: Quality | None
    failure: str | None = None


@dataclass(frozen=True)
class Prepared:
    """What a rewrite starts from.

    Attributes:
        original: the model; never changed.
        path: the file that it was read from; None for a model in memory.
        context: samples, seed, progress, the float model.
        notes: what is worth knowing about the model.
        converted: whether it is another one than that of the file: integer operators were converted to QDQ.
        runtime: what the user says that the file is for; None where passes or options say it.
    """

    original: onnx.ModelProto
    path: Path | None
    context: Context
    notes: tuple[str, ...]
    converted: bool = False
    runtime: Runtime | None = None

    @cached_property
    def reference(self) -> tuple[onnx.ModelProto, str]:
        """What models are measured against, and what that is called."""
        return reference_model(self.original, self.context.floats)

    @cached_property
    def fed(self) -> Samples:
        """What models are verified and timed on."""
        return proof_samples(self.original, self.context.samples, self.context.seed)


@dataclass(frozen=True)
class Outcome:
    """What is known of a rewrite so far.

    Attributes:
        model: the rewritten model, or the original.
        changed: whether it is another one than the original.
        regions: the report's entries, one for each quantized activation.
        compensations: the report's entries, one for each block.
        reconstructions: the report's entries, one for each layer with a quantized weight.
        notes: sentences for the user.
        planned: what the planner found; empty where nothing was planned.
        plan: what it planned; None where nothing was planned.
        qualities: before and after; None without samples.
        against: what the quality is measured against.
        verification: None where nothing was verified.
        latency: time of one sample before and after; None where it was not measured.
        grids: the report's entries, one for each quantizer that gets another grid, or should.
        sure: whether a pass has found the model better by more than chance on samples that it did not learn from.
        on_target: before and after in the target's own runtime; None where that is onnxruntime, or not installed.
    """

    model: onnx.ModelProto
    changed: bool
    regions: Entries = ()
    compensations: Entries = ()
    reconstructions: Entries = ()
    notes: tuple[str, ...] = ()
    planned: Mapping[str, Any] = field(default_factory=dict)
    plan: Plan | None = None
    qualities: tuple[Quality, Quality] | None = None
    against: str | None = None
    verification: Verification | None = None
    latency: Compared | None = None
    grids: Entries = ()
    sure: bool = False
    on_target: OnTarget | None = None

    def noting(self, *notes: str) -> Outcome:
        """The same with further notes."""
        return replace(self, notes=(*self.notes, *notes))

    def published(self, output: str | Path) -> onnx.ModelProto:
        """The model as it is used from where it was published: side files have moved.

        Args:
            output: where that is.

        Raises:
            UserError: another run has written there since, and this one's side files are gone.
        """
        if not has_side_files(self.model):
            return self.model
        try:
            return files.load_model(output)
        except UserError as e:
            raise UserError(f"{output} was written and proven, but another run writes there, too: {e}") from None


def taken_back(ready: Prepared, outcome: Outcome, why: Why) -> Outcome:
    """The outcome of a rewrite that is not applied, since it loses, or wins by chance.

    Args:
        ready: what it started from.
        outcome: with the qualities of both models.
        why: what it did.
    """
    return not_applied(ready, outcome, f"the rewrite {why.did}, so it was not applied", why.code)


def not_applied(ready: Prepared, outcome: Outcome, why: str, code: str) -> Outcome:
    """The outcome of a rewrite of which nothing is applied.

    Args:
        ready: what it started from.
        outcome: with the qualities of both models.
        why: the reason, a sentence.
        code: its code in the catalogue of refusals.
    """
    before = None if outcome.qualities is None else outcome.qualities[0]
    return replace(
        outcome,
        **_dropped(outcome, why, code),
        model=ready.original,
        changed=False,
        qualities=None if before is None else (before, before),
    ).noting(why)


def in_part(whole: Outcome, part: Outcome, dropped: str, why: Why) -> Outcome:
    """The outcome of a part of a rewrite that loses as a whole, or wins by chance.

    Args:
        whole: the whole.
        part: what is applied in its place, which does not lose.
        dropped: what the part goes without, in words.
        why: what the whole did.
    """
    told = f"with {dropped} the rewrite {why.did}, so that was left out"
    kept = {kind: getattr(part, kind) or left for kind, left in _dropped(whole, told, why.code).items()}
    return replace(part, **kept, planned=part.planned or whole.planned).noting(told)


def _dropped(outcome: Outcome, why: str, code: str) -> dict[str, Any]:
    """All entries, by kind, none applied any more."""

    def refused(e: Mapping[str, Any]) -> Mapping[str, Any]:
        if e["status"] != "applied":
            return e
        node = next(e[k] for k in PLACES if k in e)
        return {**e, "status": "refused", "reason": {"code": code, "message": why, "node": node}}

    return {kind: tuple(map(refused, getattr(outcome, kind))) for kind in KINDS}
