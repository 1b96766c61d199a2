"""What a source of samples has besides the model's inputs: labels, for the user's own metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Feed", "cut", "labels_in", "labels_of"]


class Feed(dict[str, NDArray[Any]]):
    """The model's inputs, and what else the source has for the same samples.

    Attributes:
        labels: arrays by name, samples on the first axis.
    """

    def __init__(self, inputs: Mapping[str, NDArray[Any]], labels: Mapping[str, NDArray[Any]]) -> None:
        """Keep both."""
        super().__init__(inputs)
        self.labels = dict(labels)


def labels_of(feed: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """What a feed carries besides the inputs; empty where there is nothing."""
    return feed.labels if isinstance(feed, Feed) else {}


def labels_in(source: Mapping[Any, Any], inputs: list[str], samples: int | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of a feed or an .npz that no input has the name of.

    Args:
        source: arrays by name.
        inputs: the model's.
        samples: how many they must have on the first axis; None: whatever they have.
    """
    found = {}
    for name, value in source.items():
        if name not in inputs and isinstance(value, np.ndarray | np.generic):
            array = np.atleast_1d(np.asarray(value))
            if samples in (None, len(array)):
                found[str(name)] = array
    return found


def cut(feed: Mapping[str, NDArray[Any]], part: slice, samples: int | None = None) -> Feed:
    """Some of a feed's samples.

    Args:
        feed: the feed.
        part: which samples.
        samples: how many it has; arrays of another length have no samples, and stay. None: all have them.
    """

    def some(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        whole = {k for k, v in arrays.items() if samples is not None and (not v.ndim or len(v) != samples)}
        return {k: v if k in whole else v[part] for k, v in arrays.items()}

    return Feed(some(feed), some(labels_of(feed)))
