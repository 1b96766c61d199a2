"""What the command lines here share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from onnx_ocs.errors import UserError

__all__ = ["command_line", "cpu_seconds", "exit_code"]


def command_line(module: str, doc: str | None) -> argparse.ArgumentParser:
    """A command line that is described by its module's docstring, line by line."""
    kind = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=f"python -m {module}", description=doc, formatter_class=kind)


def cpu_seconds() -> float:
    """Seconds of all CPUs, of this process and of what it has waited for."""
    return sum(os.times()[:4])


def exit_code(work: Callable[[], None]) -> int:
    """Do a command's work: 0 when it is done, 1 after the user's mistake, which is told in one line on stderr."""
    try:
        work()
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0
