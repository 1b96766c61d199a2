"""A plan is data: for every region a step, copies per channel, and a mode.  `rewrite --plan` applies it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnx_ocs.errors import UserError
from onnx_ocs.model.destinations import check_readable
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, label
from onnx_ocs.model.text import from_json
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.producer import Early
from onnx_ocs.regions.region import Key, Quantized, Region, adjustable
from onnx_ocs.translation import early
from onnx_ocs.translation.decision import Decision
from onnx_ocs.translation.options import MOST

__all__ = ["MOST", "SCHEMA", "Plan", "PlannedRegion", "early_or_late"]

SCHEMA = "onnx_ocs.plan/1"
MODES = ("early", "early only", "late")


@dataclass(frozen=True, eq=False)
class PlannedRegion:
    """What to do with one region.

    Attributes:
        tensor: float input of the QuantizeLinear.
        quantizers: what its Q nodes write (a tensor may have several grids).
        scale: the step, float64, shape () or (C,).
        copies: on the upper side, int64 (C,).
        copies_low: on the lower side, int64 (C,).
        mode: "early" (late where the producer cannot make the copies exactly), "early only" (none there), or "late".
    """

    tensor: str
    quantizers: tuple[str, ...]
    scale: Array
    copies: Array
    copies_low: Array
    mode: str

    @property
    def key(self) -> Key:
        """The region's (`Region.key`)."""
        return self.tensor, self.quantizers

    def alive(self, region: Region) -> PlannedRegion:
        """The same without copies that could never hold anything (the plan of an earlier version may have such).

        Args:
            region: with its new step.
        """
        up, low = region.alive(full=self.mode != "late" and region.full)
        return replace(self, copies=np.minimum(self.copies, up), copies_low=np.minimum(self.copies_low, low))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "tensor": self.tensor,
            "quantizers": list(self.quantizers),
            "scale": self.scale.tolist(),
            "copies": self.copies.tolist(),
            "copies_low": self.copies_low.tolist(),
            "mode": self.mode,
        }


def _counts(values: Any) -> Array:
    """Copies per channel from JSON: whole numbers from 0 to `MOST`."""
    if not isinstance(values, list) or not all(isinstance(v, int) and 0 <= v <= MOST for v in values):
        raise ValueError(f"copies must be whole numbers from 0 to {MOST}")
    return np.asarray(values, np.int64)


@dataclass(frozen=True)
class Plan:
    """A plan for one model.

    Attributes:
        model: `stats.fingerprint` of the model that it is for.
        regions: what to do; regions that are not named are left alone.
        predicted: cost and gain as the planner measured them, for the reader.
        excluded: tensors that the user left out, for the reader.
    """

    model: str
    regions: tuple[PlannedRegion, ...]
    predicted: dict[str, Any] = field(default_factory=dict)
    excluded: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The plan as text."""
        entries = [r.as_dict() for r in self.regions]
        data = {
            "schema": SCHEMA, "model": self.model, "predicted": self.predicted, "excluded": list(self.excluded),
            "regions": entries,
        }  # fmt: skip
        return json.dumps(data, indent=1, allow_nan=False) + "\n"

    def digest(self) -> str:
        """A short hash of what the plan does."""
        text = json.dumps([r.as_dict() for r in self.regions], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @staticmethod
    def read(path: str | Path) -> Plan:
        """Read a plan.

        Raises:
            UserError: no such file, or not a plan.
        """
        check_readable(path)
        try:
            data = from_json(Path(path).read_bytes())
        except OSError as e:
            raise UserError(f"{path}: cannot be read: {e.strerror}") from None
        except ValueError:
            raise UserError(f"{path}: not JSON: give a plan written by `python -m onnx_ocs plan`") from None
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise UserError(f"{path}: not a plan (its schema is not {SCHEMA})")
        try:
            regions = tuple(
                PlannedRegion(
                    tensor=str(r["tensor"]),
                    quantizers=tuple(str(q) for q in r["quantizers"]),
                    scale=np.asarray(r["scale"], np.float64),
                    copies=_counts(r["copies"]),
                    copies_low=_counts(r["copies_low"]),
                    mode=str(r["mode"]),
                )
                for r in data["regions"]
            )
        except (KeyError, TypeError, ValueError, OverflowError) as e:
            raise UserError(f"{path}: a region of the plan is damaged ({type(e).__name__}: {e})") from None
        predicted, excluded = data.get("predicted", {}), data.get("excluded", [])
        if not isinstance(predicted, dict):
            raise UserError(f"{path}: the plan is damaged ('predicted' is no object)")
        if not isinstance(excluded, list):
            raise UserError(f"{path}: the plan is damaged ('excluded' is no list)")
        return Plan(str(data.get("model", "")), regions, predicted, tuple(map(str, excluded)))

    def match(self, regions: Sequence[Quantized]) -> list[tuple[int, PlannedRegion]]:
        """The regions that the plan names, by index.

        Raises:
            UserError: the plan does not fit the model.
        """
        index, fit = {r.key: k for k, r in enumerate(regions)}, adjustable(regions)
        found: list[tuple[int, PlannedRegion]] = []
        for p in self.regions:
            k = index.get(p.key)
            if any(k == other for other, _ in found):
                raise UserError(f"the plan names the tensor '{p.tensor}' twice")
            if k is None:
                raise UserError(f"the plan names the tensor '{p.tensor}', which this model does not quantize that way")
            if k not in fit:
                raise UserError(f"the plan names the tensor '{p.tensor}', which cannot be translated")
            walk, q = fit[k].walk, fit[k].quantizer
            good = p.copies.shape == p.copies_low.shape == (walk.channels,)
            if not good or np.any(p.copies < 0) or np.any(p.copies_low < 0) or p.mode not in MODES:
                raise UserError(f"the plan's copies for '{p.tensor}' do not fit its {walk.channels} channels")
            if not (walk.weights or fit[k].fold_only) and (p.copies.any() or p.copies_low.any()):
                raise UserError(f"the plan has copies for '{p.tensor}', which no layer with a weight reads")
            with np.errstate(over="ignore", under="ignore"):
                held = p.scale.astype(q.float_dtype).astype(np.float64)
            if p.scale.shape != q.scale.shape or not np.all(np.isfinite(held)) or np.any(held <= 0):
                raise UserError(f"the plan's scale for '{p.tensor}' is not {q.scale.size} positive numbers")
            found.append((k, p))
        carried = {id(n) for k, _ in found for n in fit[k].walk.carried}
        for k, p in found:
            if any(id(n) in carried for n in regions[k].nodes):
                raise UserError(
                    f"the plan names '{p.tensor}', whose quantizer carries another planned tensor's copies on"
                )
        for k, p in found:
            for j, other in enumerate(regions):
                grid = other.quantizer
                if j != k and other.tensor == p.tensor and grid is not None and np.array_equal(grid.scale, p.scale):
                    raise UserError(
                        f"the plan's scale for '{p.tensor}' is that of another quantizer of the same tensor"
                    )
        return found


def early_or_late(graph: Graph, region: Region, planned: PlannedRegion) -> Decision | Refusal:
    """A planned region as a decision: early where that is exact, else late, or refused if only early will do.

    Other regions' new steps may have made it impossible: a bias counts in the steps of what its layer reads.
    """
    if not (planned.copies.any() or planned.copies_low.any()):
        lo, hi = region.firm
        at = label(region.nodes[0])
        return Refusal("never_clipped", f"values lie in [{lo:.6g}, {hi:.6g}], so its copies would be empty", at)
    late = Decision(region, "late", planned.copies, planned.copies_low)
    if planned.mode == "late":
        return late
    why = region.early if isinstance(region.early, Refusal) else None
    if isinstance(region.early, Early) and (region.full or not planned.copies_low.any()):
        decision = Decision(region, "early", planned.copies, planned.copies_low)
        if planned.copies.max(initial=0) <= region.early.copies:
            why = early.check(graph, region, decision.wide)
            if why is None:
                return decision
    if planned.mode == "early":
        return late
    because = f": {why.message} ({why.code})" if why else ""
    return Refusal("mode", f"not exact in early mode{because}", label(region.nodes[0]))
