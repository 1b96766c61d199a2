"""Random integers that fill every quantizer's range."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnx_ocs.model.nodes import Array
from onnx_ocs.probes.cuts import Cut
from onnx_ocs.verification.oracle import WideQuantizer

__all__ = ["stress"]


def stress(
    states: Mapping[str, Array],
    cuts: list[Cut],
    limits: Mapping[str, WideQuantizer],
    rng: np.random.Generator,
    turn: int,
) -> dict[str, Array]:
    """Random integers that fill every quantizer's (wide) range; in turn everywhere, near the top, near the bottom."""
    out: dict[str, Array] = {}
    for c in cuts:
        like = states[c.oracle]
        if c.original not in limits or c.wide is None:
            out[c.oracle] = rng.integers(c.quantizer.qmin, c.quantizer.qmax + 1, like.shape).astype(like.dtype)
            continue
        lo, hi = limits[c.original].limits()
        shape = [1] * like.ndim
        shape[c.wide.axis] = -1
        # a part stays inside the old range, where most values lie
        u = rng.random(like.shape) * np.where(rng.random(like.shape) < 0.5, 1.0, 0.4)
        u = (u, 1 - u / 2, u / 2)[turn % 3]
        out[c.oracle] = np.rint(lo.reshape(shape) + u * (hi - lo).reshape(shape)).astype(like.dtype)
    return out
