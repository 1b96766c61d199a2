"""The quantized network, carried forward from stage to stage while its layers change.

Every node runs once for each sample.  Between two stages the tensors that are still read are kept
(`onnx_ocs.reconstruction.shelf`); where that is what a DequantizeLinear writes, its integers are kept instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from onnx import NodeProto

from onnx_ocs.errors import UserError, first_line
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op
from onnx_ocs.model.order import mentioned
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.reconstruction.shelf import Shelf
from onnx_ocs.runtime.instrument import piece
from onnx_ocs.runtime.session import RUN_ERRORS, Session, as_written
from onnx_ocs.runtime.threads import CORES, in_order

__all__ = ["Forward"]

T = TypeVar("T")


class Forward:
    """All samples of one network, between two stages."""

    def __init__(
        self, graph: EditableGraph, stages: Sequence[Sequence[str]], feeds: Iterable[Mapping[str, Array]], shelf: Shelf
    ) -> None:
        """Write the feeds down.

        Args:
            graph: the network; its constants may be given new values between stages.
            stages: the tensors that each stage will be asked for, which depend on constants and earlier stages only.
            feeds: the graph's inputs, batch by batch.
            shelf: where tensors are kept.
        """
        self.graph, self.shelf = graph, shelf
        self.alive: list[str] = []
        self.batches = 0
        for feed in feeds:
            self.alive = list(feed)
            for t, value in feed.items():
                shelf.put((self.batches, t), np.asarray(value))
            self.batches += 1
        self._fixed = graph.steady()
        fixed = {id(n) for n in self._fixed}
        self._nodes = [n for n in graph.nodes if id(n) not in fixed]
        self._replayed = {id(n) for n in self._nodes if _replays(graph, n)}
        self._parts = self._split(stages)

    def _split(self, stages: Sequence[Sequence[str]]) -> list[tuple[list[str], list[NodeProto], list[str]]]:
        """For every stage: the tensors asked for, the nodes to run, and what is kept behind it."""
        writer = {o: n for n in self._nodes for o in n.output if o}
        place = {id(n): k for k, n in enumerate(self._nodes)}
        done: set[int] = set()
        parts: list[tuple[list[str], list[NodeProto]]] = []
        for tensors in stages:
            run: dict[int, NodeProto] = {}
            stack = list(tensors)
            while stack:
                n = writer.get(stack.pop())
                if n is None or id(n) in done or id(n) in run:
                    continue
                run[id(n)] = n
                stack += mentioned(n)
            parts.append((list(dict.fromkeys(tensors)), sorted(run.values(), key=lambda n: place[id(n)])))
            done |= run.keys() - self._replayed
        varying = writer.keys() | set(self.alive)
        found: list[tuple[list[str], list[NodeProto], list[str]]] = []
        wanted: set[str] = set()  # by what runs later
        for tensors, nodes in reversed(parts):
            found.append((tensors, nodes, sorted(wanted)))
            written = {o for n in nodes for o in n.output}
            read = varying & ({t for n in nodes for t in mentioned(n)} | set(tensors))
            wanted = (wanted | read) - written
        return found[::-1]

    def run(self, stage: int, look: Callable[[int, dict[str, Array]], T]) -> Iterator[tuple[int, T]]:
        """Run one stage; they must be run in order.

        Args:
            stage: its number.
            look: called with a batch's number and the tensors asked for, which are then gone.

        Yields:
            A batch's number, and what `look` made of it.

        Raises:
            UserError: onnxruntime does not run a piece of the model.
        """
        tensors, nodes, keep = self._parts[stage]
        known = set(self.alive)
        missing = [t for t in dict.fromkeys([*tensors, *keep]) if t not in known]
        first = {t: self.shelf.get((0, t))[0] for t in self.alive}
        try:
            session = None
            if missing:
                fixed = [*self._fixed, *self.graph.added]
                session = as_written(piece(self.graph, [*fixed, *nodes], first, missing), 1)
        except RUN_ERRORS as e:
            raise _broken(e) from None

        def work(batch: int) -> tuple[int, T]:
            got = self._ask(session, batch, tensors, missing)
            for t in known.difference(keep):
                self.shelf.drop((batch, t))
            for t in keep:
                if t in got and t not in known:
                    self.shelf.put((batch, t), got[t])
            return batch, look(batch, got)

        yield from in_order(work, range(self.batches), CORES)
        self.alive = [t for t in dict.fromkeys([*self.alive, *missing]) if t in keep]

    def _ask(
        self, session: Session | None, batch: int, tensors: Sequence[str], missing: Sequence[str]
    ) -> dict[str, Array]:
        found = {t: self.shelf.get((batch, t))[0] for t in tensors if t not in missing}
        if session is None:
            return found
        try:
            return found | session.run({t: self.shelf.get((batch, t))[0] for t in session.inputs}, missing)
        except RUN_ERRORS as e:
            raise _broken(e) from None


def _broken(e: Exception) -> UserError:
    return UserError(f"onnxruntime does not run a piece of the model on these samples: {first_line(e)}")


def _replays(graph: Graph, node: NodeProto) -> bool:
    """Whether a node is a DequantizeLinear of integers that onnxruntime can be fed."""
    if not is_op(node, "DequantizeLinear"):
        return False
    q = read_quantizer(graph, node)
    return isinstance(q, Quantizer) and q.dtype.kind in "iu"
