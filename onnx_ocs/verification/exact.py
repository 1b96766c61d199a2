"""The exact comparison: rewritten against the oracle, cut at every quantized activation, at ORT_DISABLE_ALL.

Both models are cut into pieces.  Every piece of the rewritten model gets the integers that the oracle has there, and
must give the integers that the oracle gives: first on the samples' own activations, then on random ones that fill every
quantizer's range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from onnx_ocs.calibration.samples import Samples
from onnx_ocs.model.nodes import Array
from onnx_ocs.model.sizes import rough_size
from onnx_ocs.probes.cuts import Cut
from onnx_ocs.runtime.instrument import cut, expose
from onnx_ocs.runtime.session import Session, attempt, attempt_run
from onnx_ocs.verification.difference import FEW, FLIPS, SHIFT, Difference
from onnx_ocs.verification.feeds import resized
from onnx_ocs.verification.oracle import WideQuantizer
from onnx_ocs.verification.stress import stress
from onnx_ocs.verification.verdict import Verification

__all__ = ["LARGE", "RELATIVE", "Inputs", "compare_exactly"]

SMALL = 2_000_000  # values; smaller models get more draws of random activations
LARGE = 1 << 28  # bytes of weights from which a run is long: one sample, and no more draws than there are kinds
RELATIVE = 1e-4  # of float graph outputs, against their largest absolute value


@dataclass(frozen=True)
class Inputs:
    """What the models are run on: so many of the samples, and random activations."""

    samples: Samples
    limit: int
    seed: int


def compare_exactly(
    result: Verification,
    truth: onnx.ModelProto,
    rewritten: onnx.ModelProto,
    cuts: Sequence[Cut],
    limits: Mapping[str, WideQuantizer],
    inputs: Inputs,
) -> None:
    """Compare the rewritten model with the oracle, layer by layer.

    Args:
        result: gets the differences, and what fails.
        truth: the oracle.
        rewritten: the rewritten model.
        cuts: where both are cut.
        limits: the wide quantizers, by what the quantizer writes in the original.
        inputs: what is fed.
    """
    whole = attempt(expose(truth, [*(c.oracle for c in cuts), *(c.tensor for c in cuts)]), "disable_all")
    if isinstance(whole, str):
        result.fail(f"onnxruntime does not load the oracle: {whole}")
        return
    work = _Comparison(result, truth, rewritten, cuts, limits, inputs)
    if not work.on_samples(whole):
        return
    if cuts and limits and work.pieces is not None:
        work.on_random()
    _judge(result, cuts)


@dataclass
class _Comparison:
    """One comparison while it runs."""

    result: Verification
    truth: onnx.ModelProto
    rewritten: onnx.ModelProto
    cuts: Sequence[Cut]
    limits: Mapping[str, WideQuantizer]
    inputs: Inputs
    pieces: Session | None = None
    outputs: dict[str, str] = field(default_factory=dict)  # of the pieces, by what the rewritten model calls them
    states: dict[str, Array] = field(default_factory=dict)  # of the last sample
    feed: Mapping[str, Array] = field(default_factory=dict)

    def on_samples(self, whole: Session) -> bool:
        """Compare on the samples' own activations.

        Returns:
            Whether the pieces could be run, or there was nothing to run.
        """
        active = total = 0
        for feed, got in self._runs(whole):
            self.feed = feed
            self.states = {c.oracle: got[c.oracle] for c in self.cuts}
            fed = self._fed(self.states)
            if self.pieces is None:
                model, self.outputs = cut(self.rewritten, fed, {})  # of any size
                loaded = attempt(model, "disable_all")
                if isinstance(loaded, str):
                    self.result.fail(f"onnxruntime does not load the rewritten model cut into layers: {loaded}")
                    return False
                self.pieces = loaded
            computed = self._computed(fed)
            if isinstance(computed, str):
                self.result.fail(f"onnxruntime runs the original but not the rewritten model: {computed}")
                return False
            for c in self.cuts:
                if c.wide is not None:
                    copies = np.flatnonzero(c.wide.level != 0)
                    values = np.moveaxis(np.take(fed[c.rewritten], copies, axis=c.wide.axis), c.wide.axis, -1)
                    rest = int(c.quantizer.zero_point.flat[0]) + c.wide.rests(c.quantizer)[copies]
                    active, total = active + int(np.sum(values != rest)), total + values.size
            self._compare(computed, got, fed, True, _asking(whole, feed))
            del got, fed, computed  # before the next ones come
        self.result.active = active / total if total else 0.0
        return True

    def on_random(self) -> None:
        """Compare on random activations that fill every quantizer's range."""
        rng = np.random.default_rng(self.inputs.seed)
        small = sum(v.size for v in self.states.values()) if rough_size(self.truth, 0) <= LARGE else SMALL
        stressed: Session | str | None = None
        names: dict[str, str] = {}
        floats = self._floats
        for turn in range(9 if small < SMALL else 3):
            random = stress(self.states, [*self.cuts], self.limits, rng, turn)
            if stressed is None:
                model, names = cut(expose(self.truth, [c.tensor for c in self.cuts]), random)
                stressed = attempt(model, "disable_all")
            if isinstance(stressed, str):
                self.result.notes.append(f"the oracle cut into layers does not load: {stressed}")
                return
            fed = self._fed(random)
            complete = {**self.feed, **{k: v for k, v in random.items() if k in names}}
            expected = attempt_run(stressed, complete, [o for o in stressed.outputs if o not in floats])
            computed = self._computed(fed)
            if isinstance(expected, str) or isinstance(computed, str):
                self.result.notes.append("the models cut into layers do not run on random activations")
                return
            expected |= {c.oracle: expected[names[c.oracle]] for c in self.cuts if c.oracle in names}
            self._compare(computed, expected, fed, False, _asking(stressed, complete))

    def _runs(self, whole: Session) -> Iterator[tuple[Mapping[str, Array], dict[str, Array]]]:
        """What the oracle computes on the samples, in batches of 1, 2 and 3 where it takes them, and on other sizes."""
        given = list(self.inputs.samples.batches(1, self.inputs.limit))
        batched = False
        asked = [o for o in whole.outputs if o not in self._floats]
        for feed, batch in resized(self.truth, given, rough_size(self.truth, 0) > LARGE) if given else ():
            got = attempt_run(whole, feed, asked)
            if not isinstance(got, str):  # else the original cannot take this size either
                batched = batched or batch
                yield feed, got
            del got
        for sample in given[:1] if batched else given:
            got = attempt_run(whole, sample, asked)
            if isinstance(got, str):
                self.result.notes.append(f"onnxruntime does not run the original on these inputs: {got}")
                return
            yield sample, got
            del got

    @property
    def _floats(self) -> set[str]:
        """What the quantizers read: most of what there is, and asked for only where something differs."""
        return {c.tensor for c in self.cuts} - {o.name for o in self.truth.graph.output} - {c.oracle for c in self.cuts}

    def _fed(self, states: Mapping[str, Array]) -> dict[str, Array]:
        """What the pieces of the rewritten model are fed: the oracle's integers, in its layout."""
        return {c.rewritten: c.split(states[c.oracle]) for c in self.cuts}

    def _computed(self, fed: Mapping[str, Array]) -> dict[str, Array] | str:
        assert self.pieces is not None
        return attempt_run(self.pieces, {**self.feed, **{k: v for k, v in fed.items() if k in self.outputs}})

    def _compare(
        self, computed: Mapping[str, Array], expected: Mapping[str, Array], fed: Mapping[str, Array], outside: bool,
        ask: Callable[[Sequence[str]], dict[str, Array]],
    ) -> None:  # fmt: skip
        """Compare what the pieces give with what the oracle gives.

        Args:
            computed: by the pieces.
            expected: by the oracle; without floats in front of quantizers.
            fed: to the pieces.
            outside: whether it is what the graph inputs are fed.
            ask: gives more of the oracle's tensors.
        """
        result = self.result
        differing: list[tuple[Cut, Array, Array]] = []
        for c in self.cuts:
            name = self.outputs.get(c.rewritten)
            if name is None:
                continue
            if computed[name].shape != fed[c.rewritten].shape:
                result.fail(f"'{c.tensor}' has the shape {computed[name].shape}, not {fed[c.rewritten].shape}")
                continue
            a, b = c.total(c.split(expected[c.oracle])), c.total(computed[name])
            if np.array_equal(a, b):
                result.exact.integers(c.tensor, a, b, None, c.noise)
            else:
                differing.append((c, a, b))
        floats = {**expected, **ask([c.tensor for c, _, _ in differing])}
        for c, a, b in differing:
            steps = c.steps(floats[c.tensor]) if c.tensor in floats else None
            result.exact.integers(c.tensor, a, b, steps, c.noise)
        for o in (o.name for o in self.truth.graph.output):
            if o not in computed or o not in expected:
                continue
            # integers that are a graph output come straight from what is fed: random states differ there
            if isinstance(expected[o], list):  # a sequence
                result.exact.floats(o, expected[o], computed[o])
            elif computed[o].dtype != expected[o].dtype:
                result.fail(f"the graph output '{o}' is {computed[o].dtype}, not {expected[o].dtype}")
            elif outside or expected[o].dtype.kind == "f":
                result.exact.floats(o if outside else f"{o} from random states", expected[o], computed[o])


def _asking(session: Session, feed: Mapping[str, Array]) -> Callable[[Sequence[str]], dict[str, Array]]:
    """Gives more of what a session computes, as far as it does."""

    def ask(names: Sequence[str]) -> dict[str, Array]:
        found = attempt_run(session, feed, [n for n in names if n in session.outputs])
        return {} if isinstance(found, str) else found

    return ask


def _judge(result: Verification, cuts: Sequence[Cut]) -> None:
    """Say what is too much of a difference."""
    d: Difference = result.exact
    slack = 200 * RELATIVE if any(c.quantizer.float_dtype != np.float32 for c in cuts) else RELATIVE
    if d.max_steps > 1:
        result.fail(f"'{d.worst}' differs from the oracle by {d.max_steps} steps")
    if d.off_tie > d.strays:
        result.fail(f"{d.off_tie} values differ from the oracle by a step although they are no rounding ties")
    if d.mismatches - d.ties > d.allowed + FEW:
        result.fail(f"{d.fraction:.3%} of the quantized values differ from the oracle")
    if abs(d.shift) > d.allowed * SHIFT / FLIPS + FEW:
        result.fail(f"the quantized values are shifted by {d.shift / d.values:.2e} steps on average")
    if d.relative > slack:
        result.fail(
            f"a graph output differs from the oracle's by {d.max_abs:.3g} ({d.relative:.2g} of its largest value)"
        )
