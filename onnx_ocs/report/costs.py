"""What a file costs, as tables of before and after show it."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["COSTS", "MORE_IS_BETTER", "elsewhere", "latency_label", "told_change"]

COSTS = {
    "macs": "MACs", "params": "parameters", "bytes": "bytes", "nodes": "nodes", "integer_kernels": "integer kernels",
    "integer_operators": "integer operators", "transposes": "Transposes",
}  # fmt: skip
COUNTED = ("integer_kernels", "integer_operators", "transposes")  # whose change is told as a number
MORE_IS_BETTER = ("integer_kernels", "integer_operators")


def told_change(key: str, before: int, after: int) -> str:
    """What one of `COSTS` has changed by: a share of what it was, or a number."""
    if before and key not in COUNTED:
        return f"{100 * (after - before) / before:+.1f} %"
    return f"{after - before:+d}"


def latency_label(latency: Mapping[str, object]) -> str:
    """What the time of a report is called: of one thread, and where, if not in onnxruntime."""
    return f"latency{elsewhere(latency)}, one thread"


def elsewhere(latency: Mapping[str, object]) -> str:
    """Where the time of a report was measured, in words; nothing for onnxruntime, as in reports that do not say."""
    runtime = latency.get("runtime") or "onnxruntime"
    return "" if runtime == "onnxruntime" else f" in {runtime}"
