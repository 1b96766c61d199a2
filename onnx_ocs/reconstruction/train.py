"""Refinement with gradients: the whole network at once, from QDQ back to QDQ (extra `refine`: torch).

What AdaRound, BRECQ, QDrop and NWQ do block by block or over the network, in its plainest form: integers of weights
with straight-through rounding, biases, scales of weights, steps of activations (LSQ, Esser et al. 2020), so that the
model's outputs, and what its layers give, differ least from the float model's.  No labels.  The graph stays; what
becomes of it is declared as `reconstruct` and a change of steps declare it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from onnx_ocs.calibration.context import Progress
from onnx_ocs.calibration.declared import input_specs
from onnx_ocs.calibration.samples import Samples
from onnx_ocs.errors import UserError
from onnx_ocs.measurement.gate import LIKELY, beyond_chance
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array
from onnx_ocs.reconstruction.folds import held
from onnx_ocs.reconstruction.standin import stand_in
from onnx_ocs.reconstruction.trainable import Trainable, find_trainable
from onnx_ocs.regions.find import folded_bounds
from onnx_ocs.runtime.session import as_written

if TYPE_CHECKING:
    from onnx_ocs.reconstruction.descent import Course
    from onnx_ocs.reconstruction.teacher import Teacher

__all__ = ["Effort", "Refinement", "check_torch", "parse_refine", "refine"]

Feed = dict[str, Array]
FEWEST = 8  # samples without which nothing is trained
LOOKED_AT = 4  # samples on which layers are compared with the float model's
DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(m|min|h)?\s*")


@dataclass(frozen=True)
class Effort:
    """How long to train: so many steps, or so many minutes."""

    steps: int | None = None
    minutes: float | None = None


@dataclass(frozen=True)
class Refinement:
    """What a refinement did.

    Attributes:
        steps: how many steps were made.
        best: after how many the held-out samples were best; 0 where nothing was kept.
        samples: number of samples that were trained on, and held out.
        errors: by output, squared error relative to its energy on the held-out samples, before and after.
        layers: number of layers with new values.
        rescaled: number of activations with another step.
        left: by the layer's name, why it stays as it is.
        note: why nothing was kept; empty otherwise.
    """

    steps: int = 0
    best: int = 0
    samples: tuple[int, int] = (0, 0)
    errors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    layers: int = 0
    rescaled: int = 0
    left: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The report's entry."""
        return {
            "steps": self.steps,
            "best": self.best,
            "samples": {"trained": self.samples[0], "held_out": self.samples[1]},
            "errors": {k: {"before": a, "after": b} for k, (a, b) in self.errors.items()},
            "layers": self.layers,
            "rescaled": self.rescaled,
            "left": dict(self.left),
            "note": self.note,
        }


def parse_refine(text: str) -> Effort:
    """What `--refine` says: "400" are steps, "3m", "3min" and "0.5h" a time.

    Raises:
        UserError: it says something else.
    """
    found = DURATION.fullmatch(text)
    if found is None or float(found[1]) <= 0 or (not found[2] and "." in found[1]):
        raise UserError(f"--refine {text}: give a number of steps (400), or a time (3m)")
    if not found[2]:
        return Effort(steps=int(found[1]))
    return Effort(minutes=float(found[1]) * (60 if found[2] == "h" else 1))


def check_torch() -> None:
    """Refinement needs torch.

    Raises:
        UserError: torch is missing.
    """
    if find_spec("torch") is None:
        raise UserError("refinement trains with torch: pip install 'onnx-ocs[refine]'")


def refine(
    model: onnx.ModelProto,
    samples: Samples,
    floats: onnx.ModelProto | None = None,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    limit: int | None = None,
    progress: Progress = lambda *_: None,
) -> tuple[onnx.ModelProto, Refinement]:
    """Train a QDQ model's integers, biases, scales and steps to answer as the float model does.

    Args:
        model: as it is, translated or reconstructed or not; not changed.
        samples: unlabelled calibration samples; those that judge a reconstruction are held out here, too.
        floats: the float model; None: the model without its activation quantizers.
        steps: of gradient descent.
        minutes: to spend instead; how many steps that makes depends on the machine.
        seed: of all random choices; with the same steps the result is the same, byte for byte.
        limit: most samples.
        progress: called with what is done, how far, and of how much.

    Returns:
        The new model, whose outputs on the held-out samples are no worse, each of them; or the old one.  And what was
        done.

    Raises:
        UserError: torch is missing, an operator is not known, the model does not run on the samples, or there is no
            float model for a translated file.
    """
    if (steps is None) == (minutes is None):
        raise UserError("refinement needs a number of steps or of minutes: give one of them")
    check_torch()
    graph = EditableGraph(model)
    parts = find_trainable(graph, folded_bounds(model, floats))
    left = {r.node: r.message for r in parts.refusals}
    if not parts.layers and not parts.steps:
        return model, Refinement(left=left, note="there is nothing to train")
    truth = floats if floats is not None else _stand_in(model)
    feeds = [dict(f) for f in samples.batches(1, limit)]
    if len(feeds) < FEWEST:
        return model, Refinement(left=left, note=f"fewer than {FEWEST} samples")
    effort = Effort(steps, minutes)
    new, done = _trained(graph, parts, feeds, truth, floats is not None, effort, seed, partial(progress, "refining"))
    return new, replace(done, left=left)


def _trained(
    graph: Graph,
    parts: Trainable,
    feeds: list[Feed],
    truth: onnx.ModelProto,
    genuine: bool,
    effort: Effort,
    seed: int,
    tick: Callable[[int, int], None],
) -> tuple[onnx.ModelProto, Refinement]:
    from onnx_ocs.reconstruction.batches import Batches
    from onnx_ocs.reconstruction.descent import descend
    from onnx_ocs.reconstruction.interpreter import Network
    from onnx_ocs.reconstruction.outcome import written
    from onnx_ocs.reconstruction.parameters import Parameters
    from onnx_ocs.reconstruction.teacher import Teacher

    model = graph.model
    teacher = Teacher(graph, parts.layers, truth, genuine, feeds[:LOOKED_AT])
    asked = [h.ours for h in teacher.hints]
    network, parameters = Network(graph, parts.roots, parts.ceilings, asked), Parameters(graph, parts)
    stopping = held(len(feeds))
    judges, taken = np.flatnonzero(stopping).tolist(), np.flatnonzero(~stopping).tolist()
    batches = Batches(feeds, taken, judges, _dynamic(model), teacher)
    seconds = None if effort.minutes is None else effort.minutes * 60
    course = descend(network, parameters, batches, effort.steps, seconds, seed, tick)
    done = Refinement(course.steps, course.best, (len(taken), len(judges)), course.errors)
    if not course.best:
        return model, _nothing(done, course, "no state was better on the held-out samples")
    new, layers = written(model, parts, parameters)
    before, after = (_losses(m, [feeds[k] for k in judges], teacher) for m in (model, new))
    if any(after[o].sum() > before[o].sum() for o in before) or not _likely(before, after):
        return model, _nothing(done, course, "the new file is no better on the held-out samples")
    rescaled = sum(float(f.detach()) != 1 for f in parameters.factors())
    errors = {o: (float(before[o].sum()), float(after[o].sum())) for o in before}
    return new, replace(done, errors=errors, layers=layers, rescaled=rescaled)


def _nothing(done: Refinement, course: Course, note: str) -> Refinement:
    same = {o: (before, before) for o, (before, _) in course.errors.items()}
    return replace(done, best=0, errors=same, note=note)


def _dynamic(model: onnx.ModelProto) -> bool:
    """Whether samples can be put together into one batch."""
    return all(s.shape is not None and len(s.shape) > 0 and s.shape[0] is None for s in input_specs(model))


def _stand_in(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without its activation quantizers."""
    found = stand_in(model)
    if found is None:
        raise UserError("shapes of a translated model are not known, so it has no stand-in for its float model: "
                        "give it (--float)")  # fmt: skip
    return found


def _losses(model: onnx.ModelProto, feeds: Sequence[Feed], teacher: Teacher) -> dict[str, Array]:
    """By output, squared error of each feed as a share of the energy of all, as onnxruntime computes the file."""
    session = as_written(model)
    noise: dict[str, list[float]] = {o: [] for o in teacher.outputs}
    energy = dict.fromkeys(teacher.outputs, 0.0)
    for feed in feeds:
        got = session.run(feed)
        for o, wanted in teacher.answer(feed)[0].items():
            exact = wanted.numpy().astype(np.float64)
            noise[o].append(float(((got[o] - exact) ** 2).sum()))
            energy[o] += float((exact**2).sum())
    return {o: np.asarray(noise[o]) / max(energy[o], 1e-30) for o in noise}


def _likely(before: Mapping[str, Array], after: Mapping[str, Array]) -> bool:
    """Whether the gain, over all outputs, is more than single feeds gain by chance."""
    gains = np.sum([(b - after[o]) / max(b.sum(), 1e-30) for o, b in before.items()], axis=0)
    return beyond_chance(gains, LIKELY)
