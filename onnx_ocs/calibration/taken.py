"""Feeds that know where in the samples they stand, so that workers find them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from onnx_ocs.calibration.feed import Feed
from onnx_ocs.calibration.labels import cut
from onnx_ocs.calibration.samples import Samples

__all__ = ["Spot", "Taken", "taken"]


class Spot(NamedTuple):
    """Where some samples stand.

    Attributes:
        feed: number of the feed, in the order in which the samples are read.
        first: how many of its samples stand before them.
        stop: the number of the sample behind them; None: the feed's last is theirs.
    """

    feed: int
    first: int = 0
    stop: int | None = None

    def of(self, feed: Feed) -> Feed:
        """The samples, out of their feed."""
        return feed if self.first == 0 and self.stop is None else cut(feed, slice(self.first, self.stop))


class Taken(Feed):
    """Samples of one feed.

    Attributes:
        spot: where they stand.
    """

    def __init__(self, feed: Feed, spot: Spot) -> None:
        """Take them.

        Args:
            feed: all samples of the feed.
            spot: which of them.
        """
        some = spot.of(feed)
        super().__init__(some, some.samples, some.labels)
        self.spot = spot

    def cut(self, first: int, stop: int) -> Taken:
        """Some of these samples."""
        whole = Taken(self, Spot(self.spot.feed, first, stop))
        whole.spot = Spot(self.spot.feed, self.spot.first + first, self.spot.first + stop)
        return whole


def taken(samples: Samples, batch: int, limit: int | None) -> Iterator[Taken]:
    """All feeds.

    Args:
        samples: the samples.
        batch: how many are one feed.
        limit: most of them.
    """
    for number, feed in enumerate(samples.batches(batch, limit)):
        yield Taken(feed, Spot(number))
