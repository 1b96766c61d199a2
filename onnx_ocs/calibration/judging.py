"""What is good: which outputs count, how much each of them, and the user's own metric."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnx_ocs.errors import UserError

__all__ = ["EVERYTHING", "Arrays", "Judging", "Metric"]

Arrays = Mapping[str, Any]  # numpy arrays by name, all samples on the first axis
Metric = Callable[[Arrays, Arrays, Arrays], float]


@dataclass(frozen=True)
class Judging:
    """What plans, gates and targets go by.

    Every graph output counts, each relative to its own energy.

    Attributes:
        weights: how much outputs count, by name; 1 where nothing is said.
        excluded: outputs that do not count.
        metric: the user's own figure, larger is better, of the outputs, the reference's outputs and what else the
            samples' source has for them (labels), each by name.  It decides; where it sees no difference, the outputs'
            errors do.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    excluded: Collection[str] = ()
    metric: Metric | None = None

    def check(self, outputs: Sequence[str]) -> None:
        """Complain about what the model does not have.

        Args:
            outputs: the model's.

        Raises:
            UserError: an output is not known, is weighed and excluded, weighs nothing, or none is left.
        """
        for name in (*self.weights, *self.excluded):
            if name not in outputs:
                close = difflib.get_close_matches(name, outputs, n=1)
                advice = f"'{close[0]}' perhaps? " if close else ""
                listed = ", ".join(f"'{o}'" for o in outputs)
                raise UserError(f"the model has no output '{name}': {advice}it has {listed}")
        for name, weight in self.weights.items():
            if not 0 < weight < float("inf"):
                raise UserError(f"the weight of the output '{name}' is {weight}: give a number above 0, or exclude it")
            if name in self.excluded:
                raise UserError(f"the output '{name}' is weighed and excluded: decide on one")
        if outputs and set(outputs) <= set(self.excluded):
            raise UserError(f"all outputs are excluded ({', '.join(outputs)}): one must count")

    def weight(self, output: str) -> float:
        """How much an output counts; 0: not at all."""
        return 0.0 if output in self.excluded else self.weights.get(output, 1.0)


EVERYTHING = Judging()  # every output counts alike
