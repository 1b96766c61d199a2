"""Do int8 kernels saturate on this CPU?  Then the file computes something else here than it says.

x86 without VNNI adds pairs of uint8 x int8 products in 16 bits.  onnxruntime avoids that with the session option
`session.x64quantprecision`.  The proof uses it, so that a verdict does not depend on the CPU.  It is off unless
the user switches it on.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from onnx_ocs.model.nodes import Array
from onnx_ocs.runtime.session import RUN_ERRORS, Session, attempt_run

__all__ = ["saturation"]

NOTABLE_DB = 40.0  # a difference that is smaller than this says nothing to anybody


def saturation(original: onnx.ModelProto, rewritten: onnx.ModelProto, feed: Mapping[str, Array]) -> str | None:
    """A sentence about outputs that saturate on this CPU; None where they do not.

    Args:
        original: the model before.
        rewritten: the model after.
        feed: one sample.
    """
    after = _moved(rewritten, feed)
    if after is None or after > NOTABLE_DB:
        return None
    before = _moved(original, feed)
    was = "does not" if before is None or before > NOTABLE_DB else f"does, too, at {before:.1f} dB"
    return (
        f"on this CPU, which has no VNNI, int8 kernels saturate: an output of the rewritten model moves to "
        f"{after:.1f} dB (the original {was}); with the session option session.x64quantprecision = 1 it does not"
    )


def _moved(model: onnx.ModelProto, feed: Mapping[str, Array]) -> float | None:
    """SQNR in dB of the worst output without the option against with it; None where there is no difference."""
    try:
        outputs = [attempt_run(Session(model, "enable_all", precise=p), feed) for p in (True, False)]
    except RUN_ERRORS:
        return None
    exact, fast = outputs
    if isinstance(exact, str) or isinstance(fast, str):
        return None
    worst: float | None = None
    for name, wanted in exact.items():
        if wanted.dtype.kind != "f":
            continue
        a, b = wanted.astype(np.float64), fast[name].astype(np.float64)
        noise, signal = float(np.sum((a - b) ** 2)), float(np.sum(a**2))
        if noise > 0:
            db = 10 * np.log10(max(signal, 1e-30) / noise)
            worst = db if worst is None else min(worst, db)
    return worst
