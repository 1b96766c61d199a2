"""What the command lines here share."""

from __future__ import annotations

import sys
from collections.abc import Callable

from onnx_ocs.errors import UserError

__all__ = ["exit_code"]


def exit_code(work: Callable[[], None]) -> int:
    """Do a command's work: 0 when it is done, 1 after the user's mistake, which is told in one line on stderr."""
    try:
        work()
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0
