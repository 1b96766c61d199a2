"""The targets by name, one module each."""

from __future__ import annotations

from onnx_ocs.model.graph import Graph
from onnx_ocs.targets import generic_int8, openvino, ort, qnn, tensorrt
from onnx_ocs.targets.choice import Runtime
from onnx_ocs.targets.rules import Rules, violations

__all__ = ["added", "complaints", "rules_of"]

_ALL: dict[str, Rules] = {m.RULES.name: m.RULES for m in (ort, openvino, tensorrt, qnn, generic_int8)}


def rules_of(runtime: Runtime) -> Rules:
    """What a runtime demands."""
    return _ALL[runtime]


def complaints(graph: Graph, runtime: Runtime) -> list[str]:
    """Sentences about what of a file already breaks the rules; none for onnxruntime, which runs what it loads."""
    return [] if runtime == "ort" else [
        f"the file breaks a rule of {runtime} as it is: {v.what} ({v.count} times, first at '{v.node}')"
        for v in violations(graph, rules_of(runtime))
    ]


def added(before: Graph, after: Graph, runtime: Runtime) -> list[str]:
    """What a rewritten file breaks more often than the original does; empty where the rewrite has kept the rules."""

    def counted(graph: Graph) -> dict[tuple[str, str], int]:
        return {(v.rule, v.what): v.count for v in violations(graph, rules_of(runtime))}

    known = counted(before)
    return [key[1] for key, n in counted(after).items() if n > known.get(key, 0)]
