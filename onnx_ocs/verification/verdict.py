"""The result of a verification, as the report says it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from onnx_ocs.verification.difference import Difference

__all__ = ["Verification"]


@dataclass
class Verification:
    """Result of a verification.

    Attributes:
        verdict: "PASSED" or "FAILED".
        failures: what is wrong, one sentence each.
        notes: what is worth knowing and is no failure.
        exact: rewritten against the oracle at ORT_DISABLE_ALL.
        optimized: rewritten at ORT_ENABLE_ALL against ORT_DISABLE_ALL; None where it could not be run.
        original: the same of the original.
        inputs: what was fed.
        translated: number of quantizers that are wide.
        rescaled: number of quantizers with another step.
        branches: number of compensation branches.
        refitted: number of layers with re-fitted weights.
        regridded: number of quantizers that were left out, split, or got another zero-point.
        active: share of the copies' values that were not zero in the exact comparison.
        io_unchanged: whether names, types and shapes of graph inputs and outputs, and the opsets, are the same.
        checker: "ok", or what the checker says.
    """

    verdict: str = "PASSED"
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    exact: Difference = field(default_factory=Difference)
    optimized: Difference | None = None
    original: Difference | None = None
    inputs: str = ""
    translated: int = 0
    rescaled: int = 0
    branches: int = 0
    refitted: int = 0
    regridded: int = 0
    active: float = 0.0
    io_unchanged: bool = True
    checker: str = "ok"

    def fail(self, why: str) -> None:
        """Record a failure."""
        self.verdict = "FAILED"
        self.failures.append(why)

    def as_dict(self) -> dict[str, Any]:
        """The report's `verification`."""
        levels = [self.exact.as_dict("disable_all")]
        if self.optimized is not None:
            levels.append(self.optimized.as_dict("enable_all"))
        return {
            "verdict": self.verdict,
            "failures": self.failures,
            "notes": self.notes,
            "levels": levels,
            "oracle": {
                "translated_quantizers": self.translated,
                "rescaled_quantizers": self.rescaled,
                "branches": self.branches,
                "refitted_layers": self.refitted,
                "regridded_quantizers": self.regridded,
                "copies_active": self.active,
                "inputs": self.inputs,
                "original_between_levels": None if self.original is None else self.original.as_dict("enable_all"),
            },
            "io_unchanged": self.io_unchanged,
            "checker": self.checker,
        }
