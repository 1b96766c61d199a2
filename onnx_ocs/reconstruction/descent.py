"""Gradient descent over a whole network: its outputs are drawn towards the float model's.

All integers, biases, scales and steps at once (Adam, a rate that falls as a cosine), and if asked for with activations'
quantizers left out here and there (QDrop).  Held-out samples say which state was the best.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from onnx_ocs.reconstruction.batches import Batch, Batches
from onnx_ocs.reconstruction.interpreter import Network
from onnx_ocs.reconstruction.parameters import Parameters
from onnx_ocs.reconstruction.teacher import Hint

__all__ = ["Course", "Settings", "descend", "reproducible"]

THREADS = 1  # always as many, wherever it runs: sums are added in the same order
CHECKS = 25  # times that the held-out samples are asked
WARM = 10  # steps in which the rate rises, and that are timed
TRAINING = 0.9  # share of the time in which is trained, besides looking at held-out samples


@dataclass(frozen=True)
class Settings:
    """How parameters move.

    Rates hold for a network whose error is as large as its answer; a better one moves less, in proportion to its error
    (the square root of noise by energy at the outputs).  A weight of 8 bits at the rate of one of 2 bits loses its fit.

    Measured on ResNet-20 behind `reconstruct`, 512 images, one seed, on 2,000 unseen images: W2A2 6.86 -> 7.86 dB after
    400 steps (120 steps: 7.18 dB, 6.83 dB at twice the rate of weights), W8A2 8.37 -> 8.50, W8A3 13.37 -> 13.43 dB
    (120 steps).  At earlier rates and without hints 6.68 dB, from 7.16, though the error on what was trained fell more;
    QDrop at a quarter brought nothing beside the hints (digits, W2A2, two seeds).

    Attributes:
        batch: samples of a step.
        weights: rate of the integers, in steps of their grid.
        biases: rate of the biases, as a share of their root mean square.
        scales: rate of the logarithm of a weight's scale.
        steps: rate of the logarithm of an activation's step.
        drop: share of the activations that are not quantized in training.
        scores: weight of the divergence of class scores, beside the squared error relative to the outputs' energy.
        hints: weight of the layers' errors, relative to their energy.
    """

    batch: int = 32
    weights: float = 8e-2
    biases: float = 2e-2
    scales: float = 8e-3
    steps: float = 8e-3
    drop: float = 0.0
    scores: float = 0.3
    hints: float = 3.0


@dataclass
class Course:
    """What happened.

    Attributes:
        steps: how many were made.
        best: after how many the held-out samples were best; 0 if never better than at the start.
        errors: by output, error relative to its energy on held-out samples: at first, and at best.
        checked: number of steps, and the errors' geometric mean in relation to the start.
    """

    steps: int = 0
    best: int = 0
    errors: dict[str, tuple[float, float]] = field(default_factory=dict)
    checked: list[tuple[int, float]] = field(default_factory=list)


@contextmanager
def reproducible(seed: int) -> Iterator[torch.Generator]:
    """The same numbers at every run; torch's global settings are put back."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    try:
        yield torch.Generator().manual_seed(seed)
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


class _Best:
    """The state that was best on held-out samples: no output worse than at first, and the least error on the whole.

    Attributes:
        distance: how far the outputs are at first, in relation to their size; at most 1.
        score: error in relation to that at first.
    """

    def __init__(self, network: Network, parameters: Parameters, held: Sequence[Batch]) -> None:
        self.network, self.parameters, self.held = network, parameters, held
        count: dict[str, int] = {}
        self.energy: dict[str, float] = {}  # of an output, in a sample
        for b in held:
            for o, wanted in b.wanted.items():
                count[o] = count.get(o, 0) + (len(wanted) if wanted.ndim else 1)
                self.energy[o] = self.energy.get(o, 1e-30) + float(wanted.double().square().sum())
        self.energy = {o: e / count[o] for o, e in self.energy.items()}
        self.first = self.least = self._errors()
        self.distance = math.sqrt(min(1.0, sum(self.first.values()) / len(self.first)))
        self.score, self.at, self.state = 1.0, 0, self._copy()
        self.checked: list[tuple[int, float]] = []

    def _copy(self) -> list[Tensor]:
        return [x.detach().clone() for x in self.parameters.all()]

    def _errors(self) -> dict[str, float]:
        """By output, its squared error as a share of its energy."""
        noise: dict[str, float] = {}
        energy: dict[str, float] = {}
        with torch.no_grad():
            values, scales = self.parameters.values()
            for b in self.held:
                got = self.network.run(b.feed, values, scales)
                for name, wanted in b.wanted.items():
                    noise[name] = noise.get(name, 0.0) + float(((got[name] - wanted).double() ** 2).sum())
                    energy[name] = energy.get(name, 0.0) + float((wanted.double() ** 2).sum())
        return {k: max(noise[k], 1e-30) / max(energy[k], 1e-30) for k in noise}

    def look(self, done: int) -> None:
        """Keep the state of now if it is better."""
        now = self._errors()
        ratios = [now[o] / self.first[o] for o in now]
        mean = math.exp(sum(math.log(r) for r in ratios) / len(ratios))
        self.checked.append((done, mean))
        if mean < self.score and max(ratios) <= 1:
            self.score, self.at, self.state, self.least = mean, done, self._copy(), now

    def restore(self, steps: int) -> Course:
        """Put the best state back, and say how it went."""
        with torch.no_grad():
            for x, kept in zip(self.parameters.all(), self.state, strict=True):
                x.copy_(kept)
        errors = {o: (self.first[o], self.least[o]) for o in self.first}
        return Course(steps, self.at, errors, self.checked)


def _loss(got: dict[str, Tensor], b: Batch, hints: Sequence[Hint], energy: dict[str, float], s: Settings) -> Tensor:
    total = torch.zeros(())
    for name, wanted in b.wanted.items():
        total = total + ((got[name] - wanted) ** 2).sum() / (energy[name] * (len(wanted) if wanted.ndim else 1))
        if wanted.ndim == 2 and wanted.shape[1] > 1:
            ours, theirs = got[name].log_softmax(1), wanted.log_softmax(1)
            divergence = functional.kl_div(ours, theirs, log_target=True, reduction="batchmean")
            total = total + s.scores * divergence
    total = total / len(b.wanted)
    for hint, theirs in zip(hints, b.hints, strict=True):
        noise = ((hint.ours_in(got) - theirs) ** 2).sum() / theirs.square().sum().clamp_min(1e-30)
        total = total + s.hints / len(hints) * noise
    return total


def _optimizer(p: Parameters, s: Settings) -> torch.optim.Optimizer:
    def size(x: Tensor) -> float:
        return float(x.square().mean().sqrt()) or 1e-3

    rates = {"weights": s.weights, "biases": s.biases, "scales": s.scales, "steps": s.steps}
    groups = [
        {"params": [x], "lr": rates[kind] * (size(x) if kind == "biases" else 1.0)}
        for kind, found in p.groups().items()
        for x in found
    ]
    for x in p.all():
        x.requires_grad_(True)
    return torch.optim.Adam(groups, betas=(0.9, 0.99))


def _rate(done: int, total: int) -> float:
    """A short rise, and then a cosine."""
    return 0.5 * (1 + math.cos(math.pi * done / total)) * min(1.0, (done + 1) / WARM)


def descend(
    network: Network,
    parameters: Parameters,
    batches: Batches,
    steps: int | None,
    seconds: float | None,
    seed: int,
    tick: Callable[[int, int], None],
    settings: Settings = Settings(),
) -> Course:
    """Train the parameters, in place; in the end they are what was best on held-out samples.

    Args:
        network: the graph.
        parameters: of it.
        batches: the samples.
        steps: how many; None: as many as `seconds` allow, of which a few are measured first.
        seconds: time to spend.
        seed: of all random choices.
        tick: called with the number of steps done, and of all.
        settings: how parameters move.
    """
    with reproducible(seed) as generator:
        best = _Best(network, parameters, batches.held_out())
        optimizer = _optimizer(parameters, settings)
        rates = [g["lr"] * best.distance for g in optimizer.param_groups]
        started, total, done = time.monotonic(), steps or WARM, 0
        while done < total:
            for g, rate in zip(optimizer.param_groups, rates, strict=True):
                g["lr"] = rate * _rate(done, total)
            optimizer.zero_grad()
            drawn = batches.draw(settings.batch, generator)
            for b in drawn:
                got = network.run(b.feed, *parameters.values(), settings.drop, generator)
                (_loss(got, b, batches.teacher.hints, best.energy, settings) / len(drawn)).backward()
            optimizer.step()
            done += 1
            if steps is None and done == WARM and seconds is not None:
                total = max(WARM, int(WARM * TRAINING * seconds / (time.monotonic() - started)))
            if done == total or done % max(1, total // CHECKS) == 0:
                best.look(done)
            tick(done, total)
        return best.restore(total)
