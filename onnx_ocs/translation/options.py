"""Options of everything that widens tensors: the passes `translate` and `split`, and the planner."""

from __future__ import annotations

from typing import Literal

from onnx_ocs.options import Option

__all__ = ["ALIGN", "COPIES", "MODE", "MOST", "PANEL", "RATIO", "Mode"]

Mode = Literal["auto", "early", "late", "integer"]

PANEL = "Translation"
RATIO = Option(
    "Mean number of copies a channel, the paper's k.",
    metavar="K",
    low=0.0,
    high=32.0,
    shown="0.5 for mass; error: see --budget",
    panel=PANEL,
)
MOST = 255  # copies a channel
COPIES = Option(
    "Most copies a channel; the planner's memory grows with N. With the default of a plan, or more, the few channels "
    "of a tensor whose values are far beyond the rest may get up to 255.",
    metavar="N",
    low=1,
    high=MOST,
    shown="mass: 1, error: 15",
    panel=PANEL,
)
ALIGN = Option(
    "Make as many copies that the channels of a tensor are a multiple of N, as some hardware wants them.",
    metavar="N",
    low=1,
    high=1024,
    panel=PANEL,
)
MODE = Option(
    "early: the producer makes the copies (exact behind ReLU); late: made in float behind any activation; "
    "auto: early wherever it is exact; integer: as auto, but nowhere where an operator would leave the integers "
    "in onnxruntime.",
    panel=PANEL,
)
