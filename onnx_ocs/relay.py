"""Run a model piece by piece over many samples, and change it between the pieces.

Compensating a block changes the input of all that follow, so blocks are fitted one after the other.  To run the model
from its start for each of them would be quadratic.  A relay keeps the tensors that are alive at the last cut, for all
samples, in files; the next piece starts from there.  Everything is computed once, and memory holds one batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, helper

from onnx_ocs.errors import UserError, first_line
from onnx_ocs.graph import Array, Graph, mentioned
from onnx_ocs.runtime import Session, as_written

__all__ = ["Relay", "piece", "save"]


def piece(
    graph: Graph, nodes: Sequence[NodeProto], fed: Mapping[str, Array], outputs: Sequence[str]
) -> onnx.ModelProto:
    """Some nodes of a graph as a model.

    Args:
        graph: where the nodes, their constants, opsets and functions come from (edits need not be committed).
        nodes: in topological order; those that no output needs are left out.
        fed: what they read from outside, with an example of each.
        outputs: what is asked for.
    """
    model = graph.model
    new = onnx.ModelProto(ir_version=model.ir_version)
    new.opset_import.extend(model.opset_import)
    new.functions.extend(model.functions)
    g = new.graph
    g.name = "piece"
    used, needed = set(outputs), list[NodeProto]()
    for n in reversed(nodes):
        if not used.isdisjoint(n.output):
            needed.append(n)
            used.update(mentioned(n))
    g.node.extend(reversed(needed))
    g.initializer.extend(graph.initializer(t) for t in sorted(used & graph.initializers.keys()))
    g.sparse_initializer.extend(t for t in model.graph.sparse_initializer if t.values.name in used)
    for name, value in fed.items():
        if name in used:
            element = helper.np_dtype_to_tensor_dtype(value.dtype)
            g.input.append(helper.make_tensor_value_info(name, element, [None] * value.ndim))
    g.output.extend(onnx.ValueInfoProto(name=t) for t in outputs)
    return new


def save(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays to an .npz, not compressed: each can be read alone."""
    np.savez(path, allow_pickle=False, **arrays)


class Relay:
    """All samples' tensors at one cut."""

    def __init__(self, feeds: Iterable[Mapping[str, Array]], folder: Path) -> None:
        """Write the feeds down.

        Args:
            feeds: the graph's inputs, batch by batch.
            folder: where files are kept; the caller removes it.
        """
        self.folder, self.batches = folder, 0
        self._renamed: dict[str, str] = {}
        for feed in feeds:
            self._write(self.batches, feed)
            self.batches += 1

    def rename(self, old: str, new: str) -> None:
        """Let a tensor of the last cut have another name."""
        self._renamed[old] = new

    def _write(self, batch: int, tensors: Mapping[str, Array]) -> None:
        path = self.folder / f"{batch}.npz"
        fresh = path.with_suffix(".new.npz")
        names = list(tensors)
        save(fresh, {"names": np.asarray(names), **{f"t{k}": tensors[n] for k, n in enumerate(names)}})
        fresh.replace(path)

    def _read(self, batch: int) -> dict[str, Array]:
        with np.load(self.folder / f"{batch}.npz", allow_pickle=False) as z:
            return {self._renamed.get(str(n), str(n)): z[f"t{k}"] for k, n in enumerate(z["names"])}

    def _results(
        self, graph: Graph, nodes: Sequence[NodeProto], outputs: Sequence[str], batches: Iterable[int]
    ) -> Iterator[tuple[int, dict[str, Array], dict[str, Array]]]:
        """Run nodes from the last cut on; yields a batch's number, what was known there, and the outputs."""
        session: Session | None = None
        for k in batches:
            known = self._read(k)
            missing = [t for t in outputs if t not in known]
            got: dict[str, Array] = {}
            if missing:
                try:
                    if session is None:
                        session = as_written(piece(graph, nodes, known, missing))
                    got = session.run({t: v for t, v in known.items() if t in session.inputs}, missing)
                except Exception as e:  # onnxruntime raises many kinds
                    raise UserError(
                        f"onnxruntime does not run a piece of the model on these samples: {first_line(e)}"
                    ) from None
            yield k, known, got

    def peek(
        self, graph: Graph, nodes: Sequence[NodeProto], output: str, batches: Iterable[int]
    ) -> Iterator[tuple[int, Array]]:
        """Run nodes from the last cut on some batches, and stay where it is; yields the batch's number and a tensor."""
        for k, known, got in self._results(graph, nodes, [output], batches):
            yield k, got[output] if output in got else known[output]

    def run(
        self, graph: Graph, nodes: Sequence[NodeProto], keep: Sequence[str]
    ) -> Iterator[tuple[int, dict[str, Array]]]:
        """Run the nodes up to the next cut.

        Args:
            graph: where the nodes come from.
            nodes: those between the last cut and the next, in topological order.
            keep: the tensors that are alive at the next cut.

        Yields:
            The batch's number, and the tensors at the next cut.

        Raises:
            UserError: onnxruntime does not run the piece.
        """
        for k, known, got in self._results(graph, nodes, keep, range(self.batches)):
            state = {t: got[t] if t in got else known[t] for t in keep}
            self._write(k, state)
            yield k, state
        self._renamed = {}
