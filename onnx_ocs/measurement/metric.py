"""The user's own figure: a function of outputs, the reference's outputs and labels, larger is better.

    def hits(outputs, references, labels): ...

Each argument holds arrays by name: all samples, joined on the first axis; a list with one array for each feed where
their other axes differ.  `labels` is what the samples' source has besides the model's inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from numbers import Real
from typing import Any, cast

import numpy as np

from onnx_ocs.calibration.judging import Metric
from onnx_ocs.calibration.reading import imported, user_function
from onnx_ocs.errors import UserError
from onnx_ocs.model.nodes import Array

__all__ = ["Scale", "evaluate", "load_metric"]

ADVICE = "name a function of three arguments (outputs, references, labels) in a module found from here"
STEEP = 1000.0  # tenfold errors that the whole of a metric outweighs: a hundredth of a per cent counts a decibel
MOST = 140.0  # powers of ten by which a metric changes an objective


def load_metric(source: str) -> Metric:
    """The function that `package.module:function` names; its module is imported, which runs the user's code.

    Raises:
        UserError: it cannot be imported, or is no function.
    """
    found = user_function(source)
    if found is None:
        raise UserError(f"--metric {source}: give package.module:function")
    function = imported(f"--metric {source}", *found, ADVICE)
    if not callable(function):
        raise UserError(f"--metric {source} is a {type(function).__name__}: {ADVICE}")
    return cast(Metric, function)


def evaluate(
    metric: Metric,
    outputs: Sequence[Mapping[str, Array]],
    references: Sequence[Mapping[str, Array]],
    labels: Sequence[Mapping[str, Array]],
) -> float:
    """The metric over some feeds.

    Args:
        metric: the user's function.
        outputs: of each feed, by name.
        references: the same of the reference.
        labels: the same of what else the samples' source has.

    Raises:
        UserError: it raises, or returns something else than a finite number.
    """
    name = getattr(metric, "__qualname__", type(metric).__name__)
    try:
        result: Any = metric(_joined(outputs), _joined(references), _joined(labels))
    except UserError:
        raise
    except Exception as e:  # whatever the user's function raises is the user's to mend
        raise UserError(f"the metric '{name}' failed ({type(e).__name__}: {e}): {ADVICE}") from e
    if isinstance(result, np.ndarray) and result.ndim == 0:
        result = result.item()
    if type(result) is bool or not isinstance(result, Real) or not math.isfinite(float(result)):
        raise UserError(f"the metric '{name}' returned {result!r:.100}: return a finite number")
    return float(result)


def _joined(feeds: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
    """Arrays of all feeds on the first axis, by name."""
    found: dict[str, Any] = {}
    for name in feeds[0] if feeds else ():
        arrays = [np.asarray(f[name]) for f in feeds if name in f]
        fits = len(arrays) == len(feeds) and len({a.shape[1:] for a in arrays}) == 1 and arrays[0].ndim > 0
        found[name] = np.concatenate(arrays) if fits else arrays
    return found


class Scale:
    """A metric on some feeds, and what it changes an objective by; what was asked once is known."""

    def __init__(
        self, metric: Metric, references: Sequence[Mapping[str, Array]], labels: Sequence[Mapping[str, Array]]
    ) -> None:
        """Ask for the reference's own figure, by which the others are scaled."""
        self._metric, self._references, self._labels = metric, references, labels
        self._known: dict[Hashable, float] = {}
        self.best = evaluate(metric, references, references, labels)

    def of(self, key: Hashable, feeds: Sequence[int], run: Callable[[int], Mapping[str, Array]]) -> float:
        """The metric over some feeds.

        Args:
            key: under which it is known.
            feeds: their numbers.
            run: gives the outputs for one of them.
        """
        if key not in self._known:
            references, labels = ([all_of[k] for k in feeds] for all_of in (self._references, self._labels))
            self._known[key] = evaluate(self._metric, [run(k) for k in feeds], references, labels)
        return self._known[key]

    def factor(self, now: float, start: float) -> float:
        """What an error is to be multiplied by, so that the metric decides unless it sees no difference."""
        unit = max(abs(self.best), abs(start)) or 1.0
        return float(10.0 ** -np.clip(STEEP * (now - start) / unit, -MOST, MOST))
