"""Where in a row of .npz files each feed begins, told by the arrays' shapes alone: nobody reads what is not his."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
from typing import Any, NamedTuple

__all__ = ["BEGIN", "Part", "Start", "starts"]


class Part(NamedTuple):
    """One file of samples.

    Attributes:
        kind: only samples of one kind go into one feed; its first entry is the batch where that is fixed, else 0.
        rows: how many samples it has.
    """

    kind: tuple[Any, ...]
    rows: int


class Start(NamedTuple):
    """Where a feed begins.

    Attributes:
        part: number of the file.
        row: number of its first sample there.
        given: samples in all feeds before.
    """

    part: int
    row: int
    given: int


BEGIN = Start(0, 0, 0)


def starts(parts: Sequence[Part], batch: int, limit: int) -> Iterator[Start]:
    """The beginnings of all feeds, in order.

    Args:
        parts: the files, in order.
        batch: samples of a feed, where the kind does not fix it.
        limit: most samples of all feeds.
    """
    given = 0
    for kind, group in groupby(enumerate(parts), key=lambda p: p[1].kind):
        members = list(group)
        ends = list(accumulate(p.rows for _, p in members))
        row, fixed = 0, kind[0]
        while (size := min(fixed or min(batch, limit - given), ends[-1] - row)) >= (fixed or 1):
            k = bisect_right(ends, row)
            yield Start(members[k][0], row - (ends[k - 1] if k else 0), given)
            row, given = row + size, given + size
            if given >= limit:
                return
