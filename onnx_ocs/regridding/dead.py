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
from onnx_ocs.probes.switchboard import Setting, Switchboard, narrow
from onnx_ocs.qdq.layers import is_layer
from onnx_ocs.regions.region import Quantized
from onnx_ocs.runtime.session import as_written
from onnx_ocs.runtime.threads import TOGETHER

__all__ = ["Dead", "Killer", "dead_channels", "find_killers"]

_LOG = logging.getLogger("onnx_ocs.regridding")

Dead = Mapping[str, tuple[int, ...]]  # channels of each graph output
MOST = 48  # quantizers that are asked, those next to the output
LOOK = 4  # samples that say of most quantizers that they kill nothing


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

    def asked_of(indices: Sequence[int], limit: int | None) -> list[OutputTally]:
        """Counts without any quantizer, and with each of these alone."""
        settings: list[dict[int, Setting]] = [{}, *({k: narrow(quantizers[k])} for k in indices)]
        tallies = [OutputTally(n, False, quantized, len(settings)) for n, _, quantized in judged]
        for feed in samples.batches(TOGETHER, limit):
            exact = session.run(feed, [t for _, t, _ in judged])
            found = [board.run(feed, s) for s in settings]
            for tally, (name, partner, _) in zip(tallies, judged, strict=True):
                tally.add(exact[partner], [f[name] for f in found])
        return tallies

    first = asked_of([*quantizers], LOOK)  # what changes here is constant nowhere
    suspects = [k for n, k in enumerate(quantizers, 1) if any(t.still(n) for t in first)]
    if not suspects:
        return []
    tallies = asked_of(suspects, None)
    nobodys = _constant(tallies, 0)  # without any quantizer
    killers = []
    for n, k in enumerate(suspects, 1):
        killed = {o: tuple(sorted({*c} & {*dead[o]} - {*nobodys[o]})) for o, c in _constant(tallies, n).items()}
        if any(killed.values()):
            killers.append(Killer(k, {o: killed[o] for o in dead if killed.get(o)}))
    return killers


def _constant(tallies: Sequence[OutputTally], trial: int) -> dict[str, tuple[int, ...]]:
    """The dead channels of every output in one trial."""
    return {t.name: t.quality(trial).constant_channels for t in tallies}


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
