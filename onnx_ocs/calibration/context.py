"""What a pass may use besides the model: samples, seed, progress, the float model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from onnx_ocs.calibration.judging import EVERYTHING, Judging
from onnx_ocs.calibration.samples import Samples
from onnx_ocs.execution.engine import Engine
from onnx_ocs.model.files import write_bytes
from onnx_ocs.regions.relu6 import Bounded

__all__ = ["Context", "Progress", "quiet"]

Progress = Callable[[str, int, int | None], None]  # what is done, how much of it, and of how much


def quiet(_what: str, _done: int, _total: int | None) -> None:
    """No progress."""


@dataclass(frozen=True)
class Context:
    """What passes may use besides the model.

    Attributes:
        samples: calibration samples; None without.
        limit: most calibration samples to use.
        seed: of everything random.
        progress: called with (what, done, total) during long work.
        original: the model before the first pass; `run_passes` sets it.
        floats: the float model; None where it is not at hand.
        bounded: which folded activations it bounds at 6 (`onnx_ocs.regions.find.folded_bounds`).
        write: how a file is written: at once, or with all others of the run.
        again: whether a pass only shows that it changes nothing more: its report is not read.
        judging: which outputs count, and the user's metric.
        engine: who computes what is a sum over samples; None: this process.
    """

    samples: Samples | None = None
    limit: int | None = None
    seed: int = 0
    progress: Progress = quiet
    original: onnx.ModelProto | None = None
    floats: onnx.ModelProto | None = None
    bounded: Bounded = field(default_factory=dict)
    write: Callable[[Path, bytes], None] = write_bytes
    again: bool = False
    judging: Judging = EVERYTHING
    engine: Engine | None = None

    def total(self) -> int:
        """How many samples there are to use."""
        return 0 if self.samples is None else self.samples.count(self.limit)
