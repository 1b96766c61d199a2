"""Is a converted QOperator file what the original is?  Operator by operator, in onnxruntime.

Both files name the integers alike that flow between operators.  The converted one is cut there: each piece is fed the
integers that the original has, and must give those that the original gives, at both optimization levels.  What differs
must differ by one step, where the value lies on a rounding tie: the kernels add up in another order.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from onnx_ocs.calibration.samples import Samples
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op
from onnx_ocs.runtime.cpu import may_saturate
from onnx_ocs.runtime.instrument import cut, expose
from onnx_ocs.runtime.session import LEVELS, Session, attempt, attempt_run
from onnx_ocs.verification.difference import FEW, Difference

__all__ = ["check_converted"]

RELATIVE = 1e-4  # of float outputs, against their largest absolute value


def check_converted(original: onnx.ModelProto, new: onnx.ModelProto, samples: Samples, limit: int = 4) -> list[str]:
    """What is wrong with a converted model, one sentence each.

    Args:
        original: the file as it was.
        new: the converted one.
        samples: what to feed.
        limit: number of samples.
    """
    if _ends(original) != _ends(new):
        return ["graph inputs or outputs are not the original's"]
    written = {o for n in original.graph.node for o in n.output if o}
    shared = [o for n in new.graph.node for o in n.output if o in written]
    # on some CPUs int8 kernels add pairs in 16 bits and saturate, which only an optimized session can be kept from
    of = {level: "enable_all" if may_saturate() else level for level in LEVELS}
    truths: dict[str, Session] = {}
    for level in dict.fromkeys(of.values()):
        truth = attempt(expose(original, shared), level)
        if isinstance(truth, str):
            return [f"onnxruntime does not load the original: {truth}"]
        truths[level] = truth
    found, pieces = {level: Difference() for level in LEVELS}, dict[str, _Pieces]()
    for feed in samples.batches(1, limit):
        answers = {level: attempt_run(truth, feed) for level, truth in truths.items()}
        for level in LEVELS:
            got = answers[of[level]]
            if isinstance(got, str):
                return [f"onnxruntime does not run the original: {got}"]
            if level not in pieces:
                integers = {t: got[t] for t in shared if got[t].dtype in (np.int8, np.uint8)}
                pieces[level] = _Pieces(new, integers, level)
            why = pieces[level].compare(found[level], feed, got)
            if why is not None:
                return [why]
    return [why for level in LEVELS for why in _judged(found[level], level)]


def _ends(model: onnx.ModelProto) -> list[bytes]:
    """Graph inputs and outputs."""
    return [v.SerializeToString(deterministic=True) for v in (*model.graph.input, *model.graph.output)]


class _Pieces:
    """The converted model, cut at the integers."""

    def __init__(self, new: onnx.ModelProto, integers: Mapping[str, Array], level: str) -> None:
        self.graph, self.integers = Graph(new), list(integers)
        quantizers = {t: self.graph.producer[t] for t in integers if is_op(self.graph.producer[t], "QuantizeLinear")}
        self.floats = {t: n.input[0] for t, n in quantizers.items()}
        self.steps = {t: self.graph.constant(n.input[1]) for t, n in quantizers.items()}
        pieces, self.names = cut(expose(new, self.floats.values()), integers, {})
        self.session = attempt(pieces, level)

    def compare(self, found: Difference, feed: Mapping[str, Array], got: Mapping[str, Array]) -> str | None:
        """Compare with what the original gives on one sample; why that could not be done."""
        if isinstance(self.session, str):
            return f"onnxruntime does not load the converted model cut into operators: {self.session}"
        computed = attempt_run(self.session, {**feed, **{t: got[t] for t in self.integers if t in self.names}})
        if isinstance(computed, str):
            return f"onnxruntime does not run the converted model: {computed}"
        for t, name in self.names.items():
            if computed[name].shape != got[t].shape:
                return f"'{t}' has the shape {computed[name].shape}, not {got[t].shape}"
            found.integers(t, got[t], computed[name], self._exact(t, computed))
        for o in (o.name for o in self.graph.model.graph.output if o.name not in self.names):
            found.floats(o, got[o], computed[o])
        return None

    def _exact(self, tensor: str, computed: Mapping[str, Array]) -> Array | None:
        """The value in steps before it was rounded."""
        floats, scale = computed.get(self.floats.get(tensor, "")), self.steps.get(tensor)
        return None if floats is None or scale is None else floats.astype(np.float64) / scale.astype(np.float64)


def _judged(d: Difference, level: str) -> list[str]:
    failures = []
    if d.max_steps > 1:
        failures.append(f"at {level} '{d.worst}' differs by {d.max_steps} steps")
    if d.off_tie > d.strays or d.mismatches - d.ties > d.allowed + FEW:
        failures.append(f"at {level} {d.mismatches} of {d.values} integers differ, {d.off_tie} of them off any tie")
    if d.relative > RELATIVE:
        failures.append(f"at {level} a float output differs by {d.relative:.2g} of its largest value")
    return failures
