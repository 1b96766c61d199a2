"""What surrounds the nodes of a model: versions, metadata, functions, annotations, and which initializers there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message

from onnx_ocs.model.graph import Graph
from onnx_ocs.verification.declared import OURS

__all__ = ["container"]

UNLISTED = 4  # the first IR version in which an initializer need not be a graph input
MODEL = ("graph", "metadata_props", "ir_version", "opset_import")  # compared by other means
GRAPH = ("node", "initializer", "input", "output", "value_info")


def _fields(message: Message, without: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a message, as bytes where they hold messages."""
    found: dict[str, Any] = {}
    for f, value in message.ListFields():
        if f.name in without:
            continue
        parts = list(value) if f.is_repeated else [value]
        found[f.name] = [p.SerializeToString(deterministic=True) if isinstance(p, Message) else p for p in parts]
    return found


def container(before: Graph, after: Graph) -> Iterator[str]:
    """What differs around the nodes, one sentence each."""
    old, new = before.model, after.model
    for kind, a, b, without in (("model", old, new, MODEL), ("graph", old.graph, new.graph, GRAPH)):
        x, y = _fields(a, without), _fields(b, without)
        for name in sorted(x.keys() | y.keys()):
            if x.get(name) != y.get(name):
                yield f"the {kind}'s '{name}' is not the original's"
    if new.ir_version not in (old.ir_version, max(old.ir_version, UNLISTED)):
        yield f"the model's IR version is {new.ir_version}, not {old.ir_version}"
    theirs = [[(p.key, p.value) for p in m.metadata_props if not p.key.startswith(OURS)] for m in (old, new)]
    if theirs[0] != theirs[1]:
        yield "the model's metadata are not the original's"
    known = {v.name: v for v in old.graph.value_info}
    for v in new.graph.value_info:
        if v.name not in known or v.SerializeToString(deterministic=True) != known[v.name].SerializeToString(
            deterministic=True
        ):
            yield f"what is said of the shape of '{v.name}' is not what the original says"
    yield from _initializers(before, after)


def _initializers(before: Graph, after: Graph) -> Iterator[str]:
    """Initializers that nobody reads: the original's must stay, and no others may come."""

    def read(graph: Graph, name: str) -> bool:
        return bool(graph.readers(name) or graph.captured(name)) or name in graph.outputs

    inputs = {i.name for i in before.model.graph.input}
    for name in before.initializers:
        if name not in after.initializers and (name in inputs or not read(before, name)):
            yield f"the initializer '{name}' of the original is missing"
    for name in after.initializers:
        if name not in before.initializers and not read(after, name):
            yield f"the initializer '{name}' is not the original's, and nobody reads it"
    if len(after.model.graph.initializer) != len(after.initializers):
        yield "two initializers have one name"
