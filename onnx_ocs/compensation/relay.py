"""Run a model piece by piece over many samples, and change it between the pieces.

Compensating a block changes the input of all that follow, so blocks are fitted one after the other.  To run the model
from its start for each of them would be quadratic.  A relay keeps the tensors that are alive at the last cut, for all
samples, in files; the next piece starts from there.  Everything is computed once, and memory holds one batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx import NodeProto

from onnx_ocs.errors import UserError, first_line
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array
from onnx_ocs.runtime.instrument import piece
from onnx_ocs.runtime.session import RUN_ERRORS, Session, as_written

__all__ = ["Relay", "save"]


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
                except RUN_ERRORS as e:
                    raise UserError(
                        f"onnxruntime does not run a piece of the model on these samples: {first_line(e)}"
                    ) from None
            yield k, known, got

    def peek(
        self, graph: Graph, nodes: Sequence[NodeProto], outputs: Sequence[str], batches: Iterable[int]
    ) -> Iterator[tuple[int, dict[str, Array]]]:
        """Run nodes from the last cut on some batches, and stay where it is; yields the batch's number and tensors."""
        for k, known, got in self._results(graph, nodes, outputs, batches):
            yield k, {t: got[t] if t in got else known[t] for t in outputs}

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
