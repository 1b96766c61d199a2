"""The command line."""

from __future__ import annotations

import signal
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line (`onnx_ocs.cli.app`), which takes a moment to be imported: Ctrl-C may come meanwhile."""
    try:
        from onnx_ocs.cli.app import main as run
    except KeyboardInterrupt:
        print("Interrupted: nothing was written.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    run()
