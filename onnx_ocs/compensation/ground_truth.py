"""What the blocks of a model should write: the float model's own values where they can be found, else a stand-in's.

The stand-in is the QDQ model without its activation quantizers: it has the blocks' tensors under the same names, but
its weights are quantized.  Where that costs the output much, the float model (`--float`) is the better target.  Its
tensors are found by their values, never by their names: both models are run on a few samples, and a block's tensor is
the float tensor of the same shape that is nearest, if it is near, no other one is nearly as near, and it is not another
block's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import numpy as np
import onnx

from onnx_ocs.measurement.outputs import judged_outputs
from onnx_ocs.model.nodes import Array
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.runtime.instrument import expose
from onnx_ocs.runtime.session import as_written

__all__ = ["Truth", "find_truth"]

SAMPLES = 4  # on which tensors are compared
NEAR_DB = 10.0  # SQNR that a float tensor must have against the stand-in's
APART_DB = 3.0  # by how much the second nearest must be worse
SAME = 1e-6  # relative squared difference of tensors that are one and the same (an Identity)
SHARE = 0.1  # of the output's error that the quantized weights alone must cause for the float model to be asked


class Truth:
    """Blocks' tensors, by the names of the quantized model.

    Attributes:
        model: with which the outputs of the whole model are compared.
        matched: the float model's name of every tensor that is taken from there.
    """

    def __init__(
        self, exact: onnx.ModelProto, tensors: Sequence[str], floats: onnx.ModelProto | None, matched: Mapping[str, str]
    ) -> None:
        """Load what is needed.

        Args:
            exact: the QDQ model without activation quantizers.
            tensors: all that will be asked for, the model's outputs included.
            floats: the float model.
            matched: its names for some of the tensors.
        """
        self.model, self.matched = exact if floats is None else floats, dict(matched)
        here = [t for t in dict.fromkeys(tensors) if t not in matched]
        self._exact = as_written(expose(exact, here)) if here else None
        self._floats = None if floats is None else as_written(expose(floats, matched.values()))

    def run(self, feed: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
        """The tensors for one feed."""
        here = [t for t in names if t not in self.matched]
        found = {} if self._exact is None else self._exact.run(feed, here)
        if self._floats is not None:
            there = [t for t in names if t in self.matched]
            got = self._floats.run(feed, list(dict.fromkeys(self.matched[t] for t in there)))
            found |= {t: got[self.matched[t]] for t in there}
        return found


def find_truth(
    model: onnx.ModelProto,
    exact: onnx.ModelProto,
    floats: onnx.ModelProto | None,
    tensors: Sequence[str],
    feeds: Iterable[Mapping[str, Array]],
) -> Truth:
    """Where the blocks' tensors are to be taken from.

    Args:
        model: the QDQ model.
        exact: the same without activation quantizers.
        floats: the float model; None where there is none.
        tensors: the blocks' tensors, in topological order.
        feeds: samples, one at a time.
    """
    partners = {n: t for n, t, _ in judged_outputs(exact if floats is None else floats, model)}
    some = [dict(f) for f in islice(feeds, SAMPLES)]
    wanted = list(dict.fromkeys([*tensors, *partners]))
    plain = Truth(exact, wanted, None, {})
    if floats is None or not _takes(floats, some):
        return plain
    stand_in = [plain.run(f, wanted) for f in some]
    partners = {n: t for n, t in partners.items() if stand_in[0][n].dtype.kind in "fiub"}
    shapes = infer_shapes(floats, {k: list(v.shape) for k, v in some[0].items()})
    fitting = {v.shape for v in stand_in[0].values()}
    written = [o for n in floats.graph.node for o in n.output if shapes.get(o) in fitting]
    session = as_written(expose(floats, written))
    truth = [session.run(f, list(dict.fromkeys([*written, *partners.values()]))) for f in some]
    quantized = as_written(model)
    now = [quantized.run(f, list(partners)) for f in some]
    if not all(_alike(truth[0][t], stand_in[0][o]) for o, t in partners.items()):
        return plain
    if not any(_weights_count(o, t, truth, stand_in, now) for o, t in partners.items()):
        return plain
    return Truth(exact, wanted, floats, {**_match(tensors, stand_in, written, truth), **partners})


def _weights_count(
    output: str,
    partner: str,
    truth: Sequence[Mapping[str, Array]],
    stand_in: Sequence[Mapping[str, Array]],
    now: Sequence[Mapping[str, Array]],
) -> bool:
    """Whether the quantized weights alone cause a share of an output's error that counts."""
    of_weights = sum(_squares(t[partner] - s[output]) for t, s in zip(truth, stand_in, strict=True))
    of_all = sum(_squares(t[partner] - y[output]) for t, y in zip(truth, now, strict=True))
    return of_weights > SHARE * of_all


def _takes(floats: onnx.ModelProto, feeds: Sequence[Mapping[str, Array]]) -> bool:
    known = {t.name for t in floats.graph.initializer}
    return bool(feeds) and {i.name for i in floats.graph.input} - known <= feeds[0].keys()


def _alike(x: Array, y: Array) -> bool:
    return bool(x.shape == y.shape and x.dtype == y.dtype)


def _squares(x: Array) -> float:
    return float((x.astype(np.float64) ** 2).sum())


def _match(
    tensors: Sequence[str],
    stand_in: Sequence[Mapping[str, Array]],
    written: Sequence[str],
    truth: Sequence[Mapping[str, Array]],
) -> dict[str, str]:
    """The float tensor that each tensor is."""
    found: dict[str, str] = {}
    for t in tensors:
        alike = [k for k, n in enumerate(written) if _alike(truth[0][n], stand_in[0][t])]
        share = {}  # of the error in the energy
        for k in alike:
            pairs = [(v[written[k]], s[t]) for v, s in zip(truth, stand_in, strict=True)]
            share[k] = sum(_squares(v - s) for v, s in pairs) / max(sum(_squares(v) for v, _ in pairs), 1e-30)
        best = min(share, key=lambda k: share[k], default=None)
        if best is None or written[best] in found.values() or not share[best] < 10 ** (-NEAR_DB / 10):
            continue
        values = truth[0][written[best]]
        rest = [k for k in alike if _squares(truth[0][written[k]] - values) > SAME * _squares(values)]
        if all(share[best] < share[k] * 10 ** (-APART_DB / 10) for k in rest):
            found[t] = written[best]
    return found
