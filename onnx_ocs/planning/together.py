"""Where there are very many tensors, like ones are asked about together, so that the number of questions is bounded.

A question costs what the model costs behind its tensors.  One for each of R tensors takes R times that: quadratic in
the size of the model.  Beyond `ASKED` tensors, those of one kind that lie next to each other are one question, groups
that cost the outputs more than their share are halved, and what a group costs is shared out by its tensors' own errors:
like tensors weigh alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from onnx_ocs.model.nodes import Array
from onnx_ocs.regions.region import Region

__all__ = ["ASKED", "alike", "halved", "most", "shared_out"]

ASKED = 256  # questions of one kind
T = TypeVar("T")
Group = tuple[int, ...]


def alike(regions: Mapping[int, Region]) -> list[Group]:
    """Tensors that are asked about together, by index: each alone where there are not too many."""
    if len(regions) <= ASKED:
        return [(k,) for k in regions]
    kinds: dict[object, list[int]] = {}
    for k, r in regions.items():
        kinds.setdefault(_kind(r), []).append(k)
    size = -(-len(regions) // (ASKED // 2))
    return [tuple(some[i : i + size]) for some in kinds.values() for i in range(0, len(some), size)]


def _kind(region: Region) -> object:
    """What tensors of one place in blocks of one kind have in common."""
    q = region.quantizer
    readers = tuple(sorted(n.op_type for n in region.walk.weights))
    return readers, region.walk.channels, q.rectifies, q.dtype.str


def halved(groups: Sequence[Group], damages: Callable[[Sequence[Group]], Array]) -> tuple[list[Group], Array]:
    """Groups of which those that cost more than their share are smaller, and what each costs.

    Args:
        groups: to begin with.
        damages: measures what groups cost, (groups,); what it was asked before costs nothing.
    """
    found, left = list(groups), ASKED // 4
    while True:
        damage = damages(found)
        large = [
            n for n in np.argsort(-damage, kind="stable") if len(found[n]) > 1 and ASKED * damage[n] > damage.sum()
        ]
        if not left or not large:
            return found, damage
        parts = set(large[:left])
        left -= len(parts)
        found = [part for n, g in enumerate(found) for part in (halves(g) if n in parts else (g,))]


def halves(group: Group) -> tuple[Group, Group]:
    """A group in two."""
    middle = (len(group) + 1) // 2
    return group[:middle], group[middle:]


def shared_out(groups: Sequence[Group], damage: Sequence[float], own: Mapping[int, float]) -> dict[int, float]:
    """What each tensor costs, where like ones cost in proportion to their own errors.

    Args:
        groups: of tensors, by index.
        damage: of each group.
        own: the tensors' own errors; not asked for where all groups are of one.
    """
    found: dict[int, float] = {}
    for g, d in zip(groups, damage, strict=True):
        errors = [own[k] for k in g] if len(g) > 1 else [1.0]
        whole = sum(errors)
        found |= {k: d * (e / whole if whole > 0 else 1 / len(g)) for k, e in zip(g, errors, strict=True)}
    return found


def most(some: Sequence[T], value: Callable[[T], float]) -> list[T]:
    """Those of the largest value that are asked about, in their old order; all where they are not too many."""
    if len(some) <= ASKED:
        return list(some)
    kept = sorted(sorted(range(len(some)), key=lambda n: -value(some[n]))[:ASKED])
    return [some[n] for n in kept]
