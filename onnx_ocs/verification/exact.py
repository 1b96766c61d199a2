"""The exact comparison: rewritten against the oracle, cut at every quantized activation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_ocs.calibration.samples import Samples
from onnx_ocs.model.nodes import Array
from onnx_ocs.model.tensors import rough_size
from onnx_ocs.probes.cuts import Cut
from onnx_ocs.runtime.instrument import cut, expose
from onnx_ocs.runtime.session import Session, attempt, attempt_run
from onnx_ocs.verification.difference import FEW, FLIPS, SHIFT
from onnx_ocs.verification.oracle import WideQuantizer
from onnx_ocs.verification.stress import stress
from onnx_ocs.verification.verdict import Verification
from onnx_ocs.verification.verify import _runs

__all__ = ["LARGE", "RELATIVE"]

SMALL = 2_000_000  # values; smaller models get more draws of random activations
LARGE = 1 << 28  # bytes of weights from which a run is long: one sample, and no more draws than there are kinds
RELATIVE = 1e-4  # of float graph outputs, against their largest absolute value


@dataclass(frozen=True)
class _Inputs:
    """What the models are run on: so many of the samples, and random activations."""

    samples: Samples
    limit: int
    seed: int


def _exact(
    result: Verification,
    truth: onnx.ModelProto,
    rewritten: onnx.ModelProto,
    cuts: list[Cut],
    limits: Mapping[str, WideQuantizer],
    inputs: _Inputs,
) -> None:
    """Rewritten against oracle, layer by layer, at ORT_DISABLE_ALL."""
    floats = [c.tensor for c in cuts]
    whole = attempt(expose(truth, [*(c.oracle for c in cuts), *floats]), "disable_all")
    if isinstance(whole, str):
        result.fail(f"onnxruntime does not load the oracle: {whole}")
        return
    pieces: Session | str | None = None
    fed_shapes: dict[str, tuple[int, ...]] = {}
    outputs: dict[str, str] = {}
    active = total = 0
    graph_outputs = [o.name for o in truth.graph.output]
    states: dict[str, Array] = {}
    feed: Mapping[str, Array] = {}

    def compare(computed: Mapping[str, Array], expected: Mapping[str, Array], outside: bool) -> None:
        for c in cuts:
            name = outputs.get(c.rewritten)
            if name is None:
                continue
            if computed[name].shape != fed_shapes[c.rewritten]:
                result.fail(f"'{c.tensor}' has the shape {computed[name].shape}, not {fed_shapes[c.rewritten]}")
                continue
            a = c.total(c.split(expected[c.oracle]))
            known = expected.get(c.tensor)
            exact_steps = None if known is None else c.steps(known)
            result.exact.integers(c.tensor, a, c.total(computed[name]), exact_steps, c.noise)
        for o in graph_outputs:
            # integers that are a graph output come straight from what is fed: random states differ there
            if o in computed and o in expected and computed[o].dtype != expected[o].dtype:
                result.fail(f"the graph output '{o}' is {computed[o].dtype}, not {expected[o].dtype}")
            elif o in computed and o in expected and (outside or expected[o].dtype.kind == "f"):
                result.exact.floats(o if outside else f"{o} from random states", expected[o], computed[o])

    for feed, got in _runs(result, truth, whole, inputs):
        states = {c.oracle: got[c.oracle] for c in cuts}
        fed = {c.rewritten: c.split(states[c.oracle]) for c in cuts}
        fed_shapes = {k: v.shape for k, v in fed.items()}
        if pieces is None:
            model, outputs = cut(rewritten, fed, {})  # of any size
            pieces = attempt(model, "disable_all")
        if isinstance(pieces, str):
            result.fail(f"onnxruntime does not load the rewritten model cut into layers: {pieces}")
            return
        computed = attempt_run(pieces, {**feed, **{k: v for k, v in fed.items() if k in outputs}})
        if isinstance(computed, str):
            result.fail(f"onnxruntime runs the original but not the rewritten model: {computed}")
            return
        for c in cuts:
            if c.wide is not None:
                values = fed[c.rewritten].astype(np.int64)
                copies = np.take(values, np.flatnonzero(c.wide.level != 0), axis=c.wide.axis)
                z = int(c.quantizer.zero_point.flat[0])
                active, total = active + int(np.sum(copies != z)), total + copies.size
        compare(computed, got, True)
    if cuts and limits and isinstance(pieces, Session):
        rng = np.random.default_rng(inputs.seed)
        size = sum(v.size for v in states.values()) if rough_size(truth, 0) <= LARGE else SMALL
        stressed: Session | str | None = None
        truth_names: dict[str, str] = {}
        for turn in range(9 if size < SMALL else 3):
            random = stress(states, cuts, limits, rng, turn)
            if stressed is None:
                truth_cut, truth_names = cut(expose(truth, floats), random)
                stressed = attempt(truth_cut, "disable_all")
            if isinstance(stressed, str):
                result.notes.append(f"the oracle cut into layers does not load: {stressed}")
                break
            fed = {c.rewritten: c.split(random[c.oracle]) for c in cuts}
            expected = attempt_run(stressed, {**feed, **{k: v for k, v in random.items() if k in truth_names}})
            computed = attempt_run(pieces, {**feed, **{k: v for k, v in fed.items() if k in outputs}})
            if isinstance(expected, str) or isinstance(computed, str):
                result.notes.append("the models cut into layers do not run on random activations")
                break
            for c in cuts:
                if c.oracle in truth_names:
                    expected[c.oracle] = expected[truth_names[c.oracle]]
            compare(computed, expected, False)
    result.active = active / total if total else 0.0
    d = result.exact
    slack = 200 * RELATIVE if any(c.quantizer.float_dtype != np.float32 for c in cuts) else RELATIVE
    if d.max_steps > 1:
        result.fail(f"'{d.worst}' differs from the oracle by {d.max_steps} steps")
    if d.off_tie:
        result.fail(f"{d.off_tie} values differ from the oracle by a step although they are no rounding ties")
    if d.mismatches - d.ties > d.allowed + FEW:
        result.fail(f"{d.fraction:.3%} of the quantized values differ from the oracle")
    if abs(d.shift) > d.allowed * SHIFT / FLIPS + FEW:
        result.fail(f"the quantized values are shifted by {d.shift / d.values:.2e} steps on average")
    if d.relative > slack:
        result.fail(
            f"a graph output differs from the oracle's by {d.max_abs:.3g} ({d.relative:.2g} of its largest value)"
        )
