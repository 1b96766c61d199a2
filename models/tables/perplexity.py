"""How well a language model tells the next token: perplexity, agreement with the float network, SQNR of the logits.

Logits of a vocabulary are large (25 MB for 128 tokens of SmolLM2), so that they are judged window by window, and the
float network's lie in a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.tables.metrics import opened
from onnx_ocs.measurement.quality import decibels

__all__ = ["Fluency", "judge", "keep_logits"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Fluency:
    """What a language model scores on windows of text.

    Attributes:
        perplexity: e to the mean surprise about each token that has one before it in its window.
        agreement: share of places where the likeliest next token is the float network's, in per cent.
        sqnr_db: of the logits against the float network's; None where they are equal.
    """

    perplexity: float
    agreement: float
    sqnr_db: float | None


def _logits(model: Path, ids: Array) -> Iterator[Array]:
    """[tokens, words] of each window, Q/DQ as written, on one thread."""
    session = opened(model, threads=1)
    name, first = session.get_inputs()[0].name, session.get_outputs()[0].name
    for window in ids:
        yield session.run([first], {name: window[None]})[0][0]


def keep_logits(model: Path, ids: Array, path: Path) -> None:
    """Write the logits of all windows as float32 `.npy` [windows, tokens, words].

    Args:
        model: the float network.
        ids: tokens int64 [windows, tokens].
        path: where to.
    """
    kept: Array | None = None
    for k, logits in enumerate(_logits(model, ids)):
        if kept is None:
            kept = np.lib.format.open_memmap(path, "w+", np.float32, (len(ids), *logits.shape))
        kept[k] = logits


def _surprise(logits: Array, ids: Array) -> float:
    """Sum over the window of minus the log probability of each next token."""
    known = logits[:-1].astype(np.float64)
    top = known.max(axis=-1)
    weight = top + np.log(np.exp(known - top[:, None]).sum(axis=-1))
    return float((weight - known[np.arange(len(known)), ids[1:]]).sum())


def judge(model: Path, ids: Array, reference: Path) -> Fluency:
    """Run a model on windows of text and judge it.

    Args:
        model: an ONNX file, tokens in, logits out.
        ids: tokens int64 [windows, tokens].
        reference: what `keep_logits` wrote of the float network for the same windows.
    """
    kept = np.load(reference, mmap_mode="r")
    surprise = signal = noise = same = 0.0
    for window, logits, ref in zip(ids, _logits(model, ids), kept, strict=True):
        surprise += _surprise(logits, window)
        same += float((logits.argmax(axis=-1) == ref.argmax(axis=-1)).sum())
        signal += float(np.square(ref, dtype=np.float64).sum())
        noise += float(np.square(logits - ref, dtype=np.float64).sum())
    told = ids.shape[0] * (ids.shape[1] - 1)
    return Fluency(float(np.exp(surprise / told)), 100 * same / ids.size, decibels(signal, noise))
