"""Float activations in front of the quantizers, streamed over the calibration samples."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import onnx

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.feed import Feed, parts_of, samples_in
from onnx_ocs.errors import UserError, first_line
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array
from onnx_ocs.probes.reference import reference
from onnx_ocs.regions.masked import floored, softmax_axes
from onnx_ocs.regions.region import Quantized
from onnx_ocs.runtime.instrument import expose
from onnx_ocs.runtime.session import RUN_ERRORS, as_written
from onnx_ocs.runtime.threads import in_order

__all__ = ["BATCH", "Activations", "stream"]

_LOG = logging.getLogger("onnx_ocs.calibration")

BATCH = 8  # samples that are counted into one half


class Activations:
    """The reference (`onnx_ocs.probes.reference`), loaded, which gives the float tensors of regions.

    No activation quantizer stands upstream that would already have clipped the values.  Those that a Softmax makes
    nothing of are raised to where it still makes nothing of them (`onnx_ocs.regions.masked`).
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        regions: Sequence[Quantized],
        wanted: Sequence[Quantized],
        threads: int | None = None,
    ) -> None:
        """Load it.

        Args:
            model: the QDQ model.
            regions: all its regions.
            wanted: those whose float tensors are asked for.
            threads: how many onnxruntime may use; None for its own choice.
        """
        self._tensors = list(dict.fromkeys(r.tensor for r in wanted))
        self._model = model
        exposed = expose(reference(model, regions), self._tensors)
        self._session = as_written(exposed, threads)
        self._graph = Graph(model) if any(n.op_type == "Softmax" for n in model.graph.node) else None
        self._masked = {} if self._graph is None else softmax_axes(self._graph, wanted)

    def parts(self, feed: Mapping[str, Array]) -> Iterator[tuple[int, Feed]]:
        """The same, a few samples at a time, each with the number of samples before it."""
        for first, part in parts_of(self._model, feed):
            yield first, self(part)

    def __call__(self, feed: Mapping[str, Array]) -> Feed:
        """Float tensors (and graph inputs) by name.

        Raises:
            UserError: the model does not run on the samples.
        """
        try:
            got = self._session.run(feed, [t for t in self._tensors if t not in feed])
        except RUN_ERRORS as e:
            raise UserError(f"onnxruntime does not run the model on the calibration samples: {first_line(e)}") from None
        for t, axis in self._masked.items():
            if t in got and self._graph is not None:
                got[t] = floored(self._graph, got[t], axis)
        return Feed({**feed, **got}, samples_in(feed))


def stream(
    model: onnx.ModelProto,
    regions: Sequence[Quantized],
    wanted: Sequence[Quantized],
    context: Context,
    activations: Activations | None = None,
    part: Iterator[Feed] | None = None,
) -> Iterator[tuple[int, int, Feed]]:
    """Run the reference over the samples, a few at a time; the next few run while the caller works on the last.

    Args:
        model: the QDQ model.
        regions: all its regions.
        wanted: those whose float tensors are asked for; nothing runs when there are none.
        context: the samples, and whom to tell about progress.
        activations: the reference, where it is loaded already.
        part: some of the samples; None: all.

    Yields:
        Number of the batch, how many of its samples came before, and float tensors (and graph inputs) by name.

    Raises:
        UserError: the model does not run on the samples.
    """
    if not wanted or context.samples is None:
        return
    activations = activations or Activations(model, regions, wanted)
    total, done = (context.total() if part is None else None), 0
    batches = part or context.samples.batches(BATCH, context.limit)
    few = ((turn, first, some) for turn, feed in enumerate(batches) for first, some in parts_of(model, feed))

    def run(item: tuple[int, int, Feed]) -> tuple[int, int, Feed]:
        turn, first, some = item
        return turn, first, activations(some)

    for turn, first, got in in_order(run, few, 1):
        if first == 0:
            context.progress("calibrating", done, total)
            _LOG.debug("calibrated on %d samples", done)
        yield turn, first, got
        done += samples_in(got)
    context.progress("calibrating", done, total)
    _LOG.info("calibrated %d tensors on %d samples", len(wanted), done)
