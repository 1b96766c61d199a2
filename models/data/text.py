"""Real English with a label: sentences of Python's own manual (`pydoc_data.topics`), and the topic each is from."""

from __future__ import annotations

import re
from pydoc_data.topics import topics

import numpy as np

__all__ = ["sentences"]

SHORTEST, LONGEST, A_TOPIC = 30, 250, 6  # characters, characters, sentences


def sentences(seed: int) -> tuple[list[str], list[int]]:
    """Six sentences of every topic that has so many, in an order drawn from the seed.

    Returns:
        The sentences, and the number of the topic for each.
    """
    rng = np.random.default_rng(seed)
    found: list[tuple[str, int]] = []
    seen: set[str] = set()
    for number, name in enumerate(sorted(topics)):
        paragraphs = [" ".join(p.split()) for p in topics[name].split("\n\n") if not p.startswith("    ")]
        said = [s for p in paragraphs for s in re.split(r"(?<=[.])\s+(?=[A-Z])", p)]
        said = [s for s in said if re.fullmatch(r"[A-Z][\w ,.;:'()\"*/-]+\.", s) and s not in seen]
        said = [s for s in said if SHORTEST <= len(s) <= LONGEST]
        seen.update(said)
        if len(said) >= A_TOPIC:
            found += [(said[i], number) for i in sorted(rng.permutation(len(said))[:A_TOPIC])]
    order = rng.permutation(len(found))
    return [found[i][0] for i in order], [found[i][1] for i in order]
