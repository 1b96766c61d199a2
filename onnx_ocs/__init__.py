"""onnx_ocs: a graph-rewriting compiler that gives quantized (QDQ) ONNX models one more bit where it matters."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx_ocs.api import RewriteResult, inspect, rewrite, verify

__all__ = ["RewriteResult", "inspect", "rewrite", "verify"]


def __getattr__(name: str) -> Any:
    """Import the verbs on first use: `--help` must not wait for onnxruntime."""
    if name in __all__:
        from onnx_ocs import api

        return getattr(api, name)
    raise AttributeError(f"module 'onnx_ocs' has no attribute '{name}'")
