"""How a network's answers are judged: against labels where there are any, and always against the float network.

    task         what the network is for, on labelled samples, in per cent
    agreement    how far it answers as the float network does, in per cent; needs no labels
    SQNR         10 log10(sum(ref^2) / sum((ref - out)^2)) of the first output over all samples, in dB

Models run in onnxruntime with `session.disable_quant_qdq = 1`, so that every Q/DQ node is computed as written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from models.data.detection import TEXT, f_measure
from onnx_ocs.measurement.quality import decibels

__all__ = ["METRICS", "Metric", "Scores", "edit_distance", "evaluate", "first_output", "opened", "read_line", "score"]

Array = npt.NDArray[Any]
BATCH = 16  # samples a run
OBJECT = 0.3  # from this score on there is such an object
SPEECH = 0.5  # from this probability on somebody speaks


@dataclass(frozen=True)
class Metric:
    """Two gauges of a first output, both in per cent.

    Attributes:
        task: what the first figure is called.
        score: (output, labels) -> figure; None where no labels are to be had.
        agreement: what the second figure is called.
        agree: (output, the float network's output) -> figure.
    """

    task: str
    score: Callable[[Array, Array], float] | None
    agreement: str
    agree: Callable[[Array, Array], float]


@dataclass(frozen=True)
class Scores:
    """What a model scores on test samples.

    Attributes:
        task: in per cent; None without labels.
        agreement: with the float network, in per cent.
        sqnr_db: against the float network; None where the outputs are equal.
    """

    task: float | None
    agreement: float
    sqnr_db: float | None


def _top1(output: Array, labels: Array) -> float:
    return 100 * float(np.mean(output.argmax(axis=-1) == labels))


def _same_class(output: Array, reference: Array) -> float:
    return _top1(output, reference.argmax(axis=-1))


def _cosines(vectors: Array) -> Array:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(unit @ unit.T)


def _same_neighbour(vectors: Array, labels: Array) -> float:
    """Share of samples whose nearest other sample has the same label."""
    cosines = _cosines(vectors)
    np.fill_diagonal(cosines, -np.inf)
    return 100 * float(np.mean(labels[cosines.argmax(axis=1)] == labels))


def _rank_correlation(vectors: Array, reference: Array) -> float:
    """Spearman's correlation of the cosines of all pairs of samples."""
    pairs = np.triu_indices(len(vectors), 1)
    one, other = (np.argsort(np.argsort(_cosines(v)[pairs])) for v in (vectors, reference))
    return 100 * float(np.corrcoef(one, other)[0, 1])


def read_line(probabilities: Array) -> list[int]:
    """The classes of one line [steps, classes], repetitions and 0 dropped (CTC, best path)."""
    best = probabilities.argmax(axis=-1)
    return [int(c) for k, c in enumerate(best) if c != 0 and (k == 0 or best[k - 1] != c)]


def edit_distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Fewest insertions, deletions and substitutions that make one sequence the other."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (x != y))
    return row[-1]


def _characters(output: Array, labels: Array) -> float:
    """Share of characters that are read: 1 - edit distance / length."""
    said = [[int(c) for c in row if c] for row in labels]
    wrong = sum(edit_distance(read_line(o), s) for o, s in zip(output, said, strict=True))
    return 100 * (1 - wrong / sum(map(len, said)))


def _same_line(output: Array, reference: Array) -> float:
    return 100 * float(np.mean([read_line(a) == read_line(b) for a, b in zip(output, reference, strict=True)]))


def _overlap(output: Array, reference: Array) -> float:
    """Intersection over union of what either calls text."""
    a, b = output > TEXT, reference > TEXT
    return 100 * float((a & b).sum() / max((a | b).sum(), 1))


def _same_decision(output: Array, reference: Array) -> float:
    return 100 * float(np.mean((output > SPEECH) == (reference > SPEECH)))


def _objects(output: Array) -> Array:
    """The best score of each class in YOLOX's answer, [samples, boxes, 4 + 1 + classes]."""
    return np.asarray((output[:, :, 4:5] * output[:, :, 5:]).max(axis=1))


def _found(output: Array, labels: Array) -> float:
    """Share of samples in which an object of their class is found."""
    return 100 * float(np.mean(_objects(output)[np.arange(len(labels)), labels] >= OBJECT))


def _same_object(output: Array, reference: Array) -> float:
    return _same_class(_objects(output), _objects(reference))


METRICS = {
    "top1": Metric("top-1", _top1, "same answer as float", _same_class),
    "neighbour": Metric("neighbour of the same topic", _same_neighbour, "rank correlation", _rank_correlation),
    "characters": Metric("characters read", _characters, "same line as float", _same_line),
    "objects": Metric("objects found", _found, "same best object as float", _same_object),
    "speech": Metric("windows", None, "same decision as float", _same_decision),
    "lines": Metric("F-measure", f_measure, "overlap with float", _overlap),
}


def opened(model: Path, threads: int = 0) -> ort.InferenceSession:
    """A session of a file, Q/DQ as written.

    Args:
        model: an ONNX file.
        threads: of an operator; 0: onnxruntime's choice.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others may share the machine
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def first_output(model: Path, samples: Mapping[str, Array]) -> Array:
    """The first output for all samples, Q/DQ as written.

    Args:
        model: an ONNX file.
        samples: an array for each input, the samples on the first axis; others are ignored.
    """
    session = opened(model)
    inputs = {i.name: samples[i.name] for i in session.get_inputs()}
    fixed = session.get_inputs()[0].shape[0]
    step = fixed if isinstance(fixed, int) else BATCH
    count = len(next(iter(inputs.values())))
    first = [session.get_outputs()[0].name]
    parts = [session.run(first, {k: v[i : i + step] for k, v in inputs.items()})[0] for i in range(0, count, step)]
    return np.concatenate(parts).astype(np.float64)


def score(output: Array, reference: Array, labels: Array | None, metric: str) -> Scores:
    """Judge a model by its first output.

    Args:
        output: of the model, for all test samples.
        reference: the float network's.
        labels: of the samples, where there are any.
        metric: one of `METRICS`.
    """
    judge = METRICS[metric]
    task = judge.score(output, labels) if judge.score and labels is not None else None
    noise = float(((reference - output) ** 2).sum())
    return Scores(task, judge.agree(output, reference), decibels(float((reference**2).sum()), noise))


def evaluate(model: Path, reference: Array, samples: Mapping[str, Array], metric: str) -> Scores:
    """Run a model on test samples and judge it.

    Args:
        model: an ONNX file.
        reference: the float network's first output on the same samples.
        samples: an array for each input, and `labels` where there are any.
        metric: one of `METRICS`.
    """
    return score(first_output(model, samples), reference, samples.get("labels"), metric)
