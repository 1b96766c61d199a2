"""Samples that are set apart: some to fit on, others that no fit sees, to judge what was fitted."""

from __future__ import annotations

from collections.abc import Iterator

from onnx_ocs.calibration.feed import Feed
from onnx_ocs.calibration.samples import Samples

__all__ = ["FEWEST", "every", "set_apart"]

APART = 4  # every fourth feed is set apart
MOST = 64  # feeds set apart, about: of many, fewer than every fourth
FEWEST = 24  # feeds from which it is done: passes need sixteen samples to fit on


def set_apart(samples: Samples, limit: int | None) -> tuple[Samples, Samples] | None:
    """Split samples in those to fit on and those to judge on; None where they are too few.

    Feeds are taken one sample at a time, or as the model takes them at once, so that no reader mixes the two.

    Args:
        samples: all samples.
        limit: most samples to use.
    """
    feeds = samples.number(1, limit)
    if feeds < FEWEST:
        return None
    apart = {*range(APART - 1, feeds, max(APART, feeds // MOST))}
    rest = set(range(feeds)) - apart
    told = samples.description
    return _of(samples, limit, rest, f"{told}, those to fit on"), _of(samples, limit, apart, f"{told}, unseen")


def every(samples: Samples, step: int, first: int) -> Samples:
    """Every so many feeds of one sample, from one on."""
    return _of(samples, None, set(range(first, samples.number(1), step)), samples.description)


def _of(samples: Samples, limit: int | None, chosen: set[int], label: str) -> Samples:
    def read(_size: int, most: int) -> Iterator[tuple[int, Feed]]:
        given = 0
        for k, feed in enumerate(samples.batches(1, limit)):
            if k in chosen:
                yield feed.samples, feed
                given += feed.samples
                if given >= most:
                    return

    return Samples(label, read)
