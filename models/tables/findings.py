"""What is seen in a table, as sentences made from its figures, and whether the paper says the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from models.tables.bench import gains, tasks
from models.tables.metrics import Scores

__all__ = ["STEPS", "above", "error", "gained", "growing", "halves_and_copies", "said"]

STEPS = (0.3, 0.5, 0.7, 1.0)
Scored = Mapping[str, Sequence[Scores]]


def said(what: str, expected: bool) -> str:
    """A finding, and whether it is what the paper says."""
    return f"{what}: {'as the paper says' if expected else 'NOT as the paper says'}."


def error(values: Sequence[float]) -> float:
    """Standard error of the mean over the seeds."""
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def gained(scores: Scored, name: str, base: str = "plain") -> str:
    """Mean gain over the plain model, in points and dB."""
    found = gains(scores[name], scores[base])
    pairs = zip(scores[name], scores[base], strict=True)
    sqnr = [a.sqnr_db - b.sqnr_db for a, b in pairs if a.sqnr_db is not None and b.sqnr_db is not None]
    spread = f" (standard error {error(found):.2f})" if len(found) > 1 else ""
    return f"{np.mean(found):+.2f} points{spread}, {np.mean(sqnr):+.2f} dB"


def above(scores: Scored, name: str) -> bool:
    """Whether it scores more than the plain model by more than a standard error."""
    found = gains(scores[name], scores["plain"])
    return float(np.mean(found)) > error(found)


def halves_and_copies(where: str, scores: Scored) -> list[str]:
    """What OCS and OCS+ do at k = 0.5."""
    return [
        said(f"{where}, k = 0.5: {name} {gained(scores, row)}", above(scores, row) == (name == "OCS+"))
        for name, row in (("OCS", "OCS, k = 0.5"), ("OCS+", "OCS+, k = 0.5"))
    ]


def growing(where: str, scores: Scored, name: str = "") -> str:
    """Whether accuracy grows with k."""
    found = [tasks(scores[row]) for row in ("plain", *(f"{name}k = {k}" for k in STEPS))]
    changes = [np.subtract(b, a) for a, b in pairwise(found)]
    row = ", ".join(f"{np.mean(f):.2f}" for f in found)
    grows = all(np.mean(c) >= -error(list(c)) for c in changes)
    return said(f"{where}, the paper's rule: {row} % with k = 0, {str(STEPS)[1:-1]}", grows)
