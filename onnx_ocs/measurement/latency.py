"""Time of one sample in onnxruntime, such as before and after: what multiply-accumulates do not say.

Integer kernels, lost fusions and layouts decide it.  One thread, ORT_ENABLE_ALL; the models take turns, and the
thread's CPU time is counted, which other work on the machine disturbs less than wall time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from onnx_ocs.model import tensors
from onnx_ocs.model.nodes import Array
from onnx_ocs.runtime.session import LARGE, RUN_ERRORS, Session, attempt_run

__all__ = ["latencies"]

SECONDS = 1.0  # of running all models; each runs once at least
MOST = 50  # runs of each


def latencies(
    models: Sequence[onnx.ModelProto], feed: Mapping[str, Array], most: int = MOST, seconds: float = SECONDS
) -> list[float] | None:
    """Medians of the time of each model.

    Args:
        models: the models, such as before and after.
        feed: what they are fed, such as one sample.
        most: runs of each.
        seconds: after which no more runs are begun.

    Returns:
        Milliseconds of CPU time of each; None for models that onnxruntime does not run, or above 256 MB, where loading
        them again would take longer than all else.
    """
    if any(tensors.rough_size(m, LARGE) > LARGE for m in models):
        return None
    try:
        sessions = [Session(m, "enable_all", threads=1, precise=False) for m in models]
    except RUN_ERRORS:
        return None
    if any(isinstance(attempt_run(s, feed), str) for s in sessions):
        return None
    took: list[list[float]] = [[] for _ in models]
    start = time.perf_counter()
    while not took[0] or (len(took[0]) < most and time.perf_counter() - start < seconds):
        for session, found in zip(sessions, took, strict=True):
            now = time.thread_time()
            session.run(feed)
            found.append(time.thread_time() - now)
    return [1e3 * float(np.median(found)) for found in took]
