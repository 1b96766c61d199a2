"""Passages of text: what a long sample of a language model is judged by.

A window of text is one sample, but says many things: an error for each token.  Of few windows nobody can tell whether
a gain is more than chance; of passages of 32 tokens one can.  Tokens next to each other are no different samples, so
passages are no shorter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from onnx_ocs.model.nodes import Array

__all__ = ["LENGTH", "apart", "passages"]

LENGTH = 32  # tokens of a passage, at least


def passages(feed: Mapping[str, Array], outputs: Sequence[Array], mask: Array | None = None) -> list[slice]:
    """Where a feed's outputs are parted, along their second axis; one slice for all where they are no text.

    Args:
        feed: what the model is fed; text are integers, (samples, tokens).
        outputs: what it gives, (samples, tokens, ...) where each token has a value.
        mask: which tokens count, (samples, tokens); passages of padding alone are left out.
    """
    lengths = {v.shape[1] for v in feed.values() if v.ndim == 2 and v.dtype.kind in "iu"}
    found = {v.shape[1] if v.ndim > 2 else 0 for v in outputs}
    (tokens,) = found if len(found) == 1 else (0,)
    if tokens not in lengths or tokens < 2 * LENGTH:
        return [slice(None)]
    edges = np.linspace(0, tokens, tokens // LENGTH + 1).astype(int).tolist()
    parts = [slice(a, b) for a, b in pairwise(edges)]
    if mask is None or mask.shape[1:] != (tokens,):
        return parts
    return [s for s in parts if mask[:, s].any()] or parts[:1]


def apart(outputs: Mapping[str, Array], where: Sequence[slice]) -> list[dict[str, Array]]:
    """Outputs of a feed, passage by passage."""
    whole = where == [slice(None)]
    return [dict(outputs)] if whole else [{k: v[:, at] for k, v in outputs.items()} for at in where]
