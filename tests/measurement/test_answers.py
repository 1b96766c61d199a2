"""Models answer the same to whoever asks, and comparisons have the same bits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zoo

from onnx_ocs.calibration.judging import Judging
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.errors import UserError
from onnx_ocs.execution.choice import engine
from onnx_ocs.measurement.answers import answers
from onnx_ocs.measurement.quality import compare
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.probes.reference import reference
from onnx_ocs.regions.find import find_regions


def test_the_same_bits_with_a_metric_that_needs_labels(tmp_path: Path) -> None:
    model, feed = zoo.build("residual")
    x = np.random.default_rng(2).standard_normal((83, *feed["x"].shape[1:])).astype(np.float32)
    np.savez(tmp_path / "c.npz", x=x, label=np.arange(83.0))
    truth = reference(model, find_regions(Graph(model), infer_shapes(model)))
    judging = Judging(metric=lambda out, ref, labels: float(labels["label"] @ np.ones(83) + len(out) + len(ref)))
    ticks: list[int] = []
    found = []
    with ThreadPoolExecutor(3) as pool:
        for executor in (None, pool):
            samples = open_samples(str(tmp_path / "c.npz"), model, labels=True)
            with engine(executor) as workers:
                found.append(compare(truth, [model, model], samples, 82 + 1, ticks.append, judging, workers))
    assert found[0] == found[1] and found[0][0].samples == 83 and sum(ticks) == 2 * 83


def test_samples_that_do_not_fit(tmp_path: Path) -> None:
    model, feed = zoo.build("residual")
    samples = open_samples([{"x": feed["x"]}], model)
    models = [model, zoo.build("gemm")[0]]
    asked = [[m.graph.output[0].name] for m in models]
    with ThreadPoolExecutor(1) as pool, engine(pool) as workers, pytest.raises(UserError, match="does not run"):
        list(answers(models, asked, samples, None, workers))
