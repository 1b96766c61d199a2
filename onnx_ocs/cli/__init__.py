"""The command line."""

from onnx_ocs.cli.app import main

__all__ = ["main"]
