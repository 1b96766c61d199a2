"""Dead channels of the outputs, and the quantizers that kill them.

A channel is dead where it is constant on the samples and the reference's is not (`onnx_ocs.measurement.channels`).  A
quantizer kills it where the model with this quantizer alone, and no other, has it dead too.  Only quantizers between
the output and the layers before it are asked: behind a layer each value is a sum of many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnx_ocs.calibration.samples import Samples
from onnx_ocs.measurement.quality import Quality, compare
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import is_op
from onnx_ocs.model.order import mentioned
from onnx_ocs.probes.reference import reference
from onnx_ocs.qdq.layers import is_layer
from onnx_ocs.regions.region import Quantized

__all__ = ["Dead", "Killer", "dead_channels", "find_killers"]

Dead = Mapping[str, tuple[int, ...]]  # channels of each graph output
MOST = 48  # quantizers that are asked, those next to the output
AT_ONCE = 8  # models that are loaded together


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
    model: onnx.ModelProto, regions: Sequence[Quantized], truth: onnx.ModelProto, dead: Dead, samples: Samples,
    plain: onnx.ModelProto,
) -> list[Killer]:  # fmt: skip
    """Which quantizers kill channels of outputs, each alone.

    Args:
        model: the QDQ model; not changed.
        regions: all its regions.
        truth: the reference.
        dead: the outputs' dead channels.
        samples: what to run on.
        plain: the model without activation quantizers.

    Returns:
        One for each such quantizer, in the regions' order.
    """
    asked = _between(Graph(model), regions, dead)
    without = dead_channels(compare(truth, [plain], samples)[0])  # no quantizer's fault
    dead = {o: tuple(sorted({*c} - {*without.get(o, ())})) for o, c in dead.items()}
    found = []
    for start in range(0, len(asked), AT_ONCE):
        some = asked[start : start + AT_ONCE]
        alone = [reference(model, [r for j, r in enumerate(regions) if j != k]) for k in some]
        for k, quality in zip(some, compare(truth, alone, samples), strict=True):
            killed = {o: tuple(sorted({*c} & {*dead.get(o, ())})) for o, c in dead_channels(quality).items()}
            if any(killed.values()):
                found.append(Killer(k, {o: c for o, c in killed.items() if c}))
    return found


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
