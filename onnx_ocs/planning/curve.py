"""Error against price of one tensor: the points that can be best at some price."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_ocs.model.nodes import Array

__all__ = ["Curve"]


@dataclass(frozen=True, eq=False)
class Curve:
    """Error and cost of one step, as a function of what a saving must be worth.

    Attributes:
        base: error without copies.
        savings: what all copies save, in ascending order.
        sums: their running sums, starting at 0.
    """

    base: float
    savings: Array
    sums: Array

    def at(self, price: float) -> float:
        """Error and cost with the copies that save more than the price."""
        first = int(self.savings.searchsorted(price, side="right"))
        taken = len(self.savings) - first
        gained = float(self.sums.item(-1)) - float(self.sums.item(first))
        return self.base - (gained - (price * taken if taken else 0.0))
