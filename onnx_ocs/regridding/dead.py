"""Dead channels of the outputs, and the quantizers that kill them.

A channel is dead where it is constant on the samples and the reference's is not (`onnx_ocs.measurement.channels`).  A
quantizer kills it where the model with this quantizer alone, and no other, has it dead too.  Only quantizers between
the output and the layers before it are asked: behind a layer each value is a sum of many.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnx_ocs.calibration.samples import Samples
from onnx_ocs.errors import UserError
from onnx_ocs.measurement.outputs import OutputTally, judged_outputs
from onnx_ocs.measurement.quality import Quality
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import is_op
from onnx_ocs.model.order import mentioned
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.probes.switchboard import Switchboard, narrow
from onnx_ocs.qdq.layers import is_layer
from onnx_ocs.regions.region import Quantized
from onnx_ocs.runtime.session import as_written
from onnx_ocs.runtime.threads import TOGETHER

__all__ = ["Dead", "Killer", "dead_channels", "find_killers"]

_LOG = logging.getLogger("onnx_ocs.regridding")

Dead = Mapping[str, tuple[int, ...]]  # channels of each graph output
MOST = 48  # quantizers that are asked, those next to the output


@dataclass(frozen=True, eq=False)
class Killer:
    """A quantizer behind which channels of outputs are dead.

    Attributes:
        index: of its region.
        dead: the channels that it kills by itself.
    """

    index: int
    dead: Dead


def dead_channels(quality: Quality) -> Dead:
    """The dead channels of every output that has some."""
    return {o.name: o.constant_channels for o in quality.outputs if o.constant_channels}


def find_killers(
    model: onnx.ModelProto, regions: Sequence[Quantized], truth: onnx.ModelProto, dead: Dead, samples: Samples
) -> list[Killer]:
    """Which quantizers kill channels of outputs, each alone.

    Args:
        model: the QDQ model; not changed.
        regions: all its regions.
        truth: the reference.
        dead: the outputs' dead channels.
        samples: what to run on.

    Returns:
        One for each such quantizer, in the regions' order; none where onnxruntime does not run the model switch by
        switch.
    """
    asked = _between(Graph(model), regions, dead)
    if not asked:
        return []
    judged = [o for o in judged_outputs(truth, model) if o[0] in dead]
    try:
        board = Switchboard(model, regions, infer_shapes(model), outputs=[n for n, _, _ in judged], only=asked)
    except UserError as e:
        _LOG.warning("which quantizers kill channels cannot be told: %s", e)
        return []
    session = as_written(truth)
    quantizers = {k: q for k in asked if (q := regions[k].quantizer) is not None}
    settings = {k: {k: narrow(q)} for k, q in quantizers.items()}  # the same objects for every feed
    everyone = None, *quantizers  # None: without any
    tallies = {k: [OutputTally(n, False, quantized, 1) for n, _, quantized in judged] for k in everyone}
    suspects = [*quantizers]
    for feed in samples.batches(TOGETHER, None):
        exact = session.run(feed, [t for _, t, _ in judged])
        for k in (None, *suspects):
            found = board.run(feed, {} if k is None else settings[k])
            for tally, (name, partner, _) in zip(tallies[k], judged, strict=True):
                tally.add(exact[partner], [found[name]])
        suspects = [k for k in suspects if any(t.still(0, dead[t.name]) for t in tallies[k])]
        if not suspects:
            return []
    nobodys = _constant(tallies[None])
    killers = []
    for k in suspects:
        killed = {o: tuple(sorted({*c} & {*dead[o]} - {*nobodys[o]})) for o, c in _constant(tallies[k]).items()}
        if any(killed.values()):
            killers.append(Killer(k, {o: killed[o] for o in dead if killed.get(o)}))
    return killers


def _constant(tallies: Sequence[OutputTally]) -> dict[str, tuple[int, ...]]:
    """The dead channels of every output."""
    return {t.name: t.quality(0).constant_channels for t in tallies}


def _between(graph: Graph, regions: Sequence[Quantized], outputs: Dead) -> list[int]:
    """The regions between layers and these outputs, at most `MOST`, in order."""
    index = {id(n): k for k, r in enumerate(regions) if r.quantizer is not None for n in r.nodes}
    queue, seen, found = deque(outputs), set(outputs), dict[int, None]()
    while queue and len(found) < MOST:
        n = graph.producer.get(queue.popleft())
        if n is None or (is_layer(n) and graph.is_constant(n.input[1])):
            continue
        if is_op(n, "QuantizeLinear") and id(n) in index:
            found[index[id(n)]] = None
        for t in mentioned(n):
            if t not in seen:
                seen.add(t)
                queue.append(t)
    return sorted(found)
