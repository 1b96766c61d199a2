"""onnx_ocs: a graph-rewriting compiler that wins accuracy back in quantized (QDQ) ONNX models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx_ocs.api import (
        Judging,
        PlanOptions,
        RewriteResult,
        Target,
        calibrate,
        inspect,
        merge,
        plan,
        rewrite,
        verify,
    )

__all__ = [
    "Judging", "PlanOptions", "RewriteResult", "Target", "calibrate", "inspect", "merge", "plan", "rewrite", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import the verbs on first use: `--help` must not wait for onnxruntime."""
    if name in __all__:
        from onnx_ocs import api

        globals().update({n: getattr(api, n) for n in __all__})
        return globals()[name]
    raise AttributeError(f"module 'onnx_ocs' has no attribute '{name}'")
