"""Where statistics come from: of which model, under which settings, and which feeds of the samples they have seen.

So parts that were counted anywhere are only added where they belong together, each feed once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from onnx_ocs.errors import UserError

__all__ = ["Origin", "Range", "shard"]

Range = tuple[int, int]  # numbers of feeds, the second one excluded


def shard(number: int, of: int, feeds: int) -> Range:
    """The feeds of shard `number` (from 1 on) of so many: whole feeds, in order, as even as that goes.

    Raises:
        UserError: there is no such shard.
    """
    if not 1 <= number <= of:
        raise UserError(f"there is no shard {number} of {of}: give K/N with K from 1 to N")
    return (number - 1) * feeds // of, number * feeds // of


@dataclass(frozen=True)
class Origin:
    """Where statistics come from.

    Attributes:
        model: `fingerprint` of the model.
        settings: what else the counts depend on, by the name that the user knows it by.
        feeds: how many feeds all samples are.
        parts: which of them were counted, in order, none twice.
        probe: a checksum of the first sample, and of what the model computed from it: of other samples, or on a
            processor that computes otherwise, it is another one.
    """

    model: str
    settings: Mapping[str, str | int | None] = field(default_factory=dict)
    feeds: int = 0
    parts: tuple[Range, ...] = ()
    probe: str = ""

    @property
    def missing(self) -> list[Range]:
        """Which feeds were not counted."""
        ends = [0, *(e for _, e in self.parts)]
        starts = [*(s for s, _ in self.parts), self.feeds]
        return [(a, b) for a, b in zip(ends, starts, strict=True) if a < b]

    def joined(self, other: Origin, names: tuple[str, str] = ("these", "the others")) -> Origin:
        """Where the sum of both comes from.

        Args:
            other: of the other statistics.
            names: what the user calls them, this one's first.

        Raises:
            UserError: they do not belong together.
        """
        mine, theirs = names
        if self.model != other.model:
            raise UserError(f"{mine} and {theirs} belong to another model each: calibrate again")
        different = [k for k in {**self.settings, **other.settings} if self.settings.get(k) != other.settings.get(k)]
        if different:
            said = ", ".join(f"{k} {self.settings.get(k)} and {other.settings.get(k)}" for k in sorted(different))
            raise UserError(f"{mine} and {theirs} were made with other settings ({said}): calibrate again")
        if (self.feeds, self.probe.split()[:1]) != (other.feeds, other.probe.split()[:1]):
            raise UserError(f"{mine} and {theirs} are of other samples each: give every shard the same --calib")
        if self.probe != other.probe:
            raise UserError(
                f"{mine} and {theirs} were made by machines that compute other activations from the same sample: "
                "calibrate all shards on one kind of processor"
            )
        return replace(self, parts=_union(self.parts, other.parts, names))

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Origin:
        """Read it back.

        Raises:
            ValueError, TypeError: it is none.
        """
        read = json.loads(text)
        parts = tuple((int(a), int(b)) for a, b in read.pop("parts"))
        return Origin(**read, parts=parts)


def _union(mine: tuple[Range, ...], theirs: tuple[Range, ...], names: tuple[str, str]) -> tuple[Range, ...]:
    """Both, neighbours joined."""
    found: list[Range] = []
    for start, stop in sorted(r for r in (*mine, *theirs) if r[0] < r[1]):
        if found and start < found[-1][1]:
            raise UserError(f"{names[0]} and {names[1]} both have feed {start}: give each shard once")
        if found and start == found[-1][1]:
            found[-1] = found[-1][0], stop
        else:
            found.append((start, stop))
    return tuple(found)
