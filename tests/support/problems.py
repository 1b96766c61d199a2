"""Problems of small models, for the planner."""

from __future__ import annotations

import numpy as np
import zoo

from onnx_ocs.calibration.collect import calibrate
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.problem import Problem, pose
from onnx_ocs.regions.find import find_regions

COPIES = 6


def problem_of(of: str | zoo.Built, options: PlanOptions | None = None) -> Problem:
    """A problem with damage, without tables, of a model of the zoo or of another one and its samples."""
    model, feed = zoo.build(of) if isinstance(of, str) else of
    rng = np.random.default_rng(3)
    calib = {k: (rng.standard_normal((24, *v.shape[1:])) * 2).astype(v.dtype) for k, v in feed.items()}
    context = Context(open_samples(calib, model))
    one = {k: [1, *v.shape[1:]] for k, v in feed.items()}
    graph, regions = Graph(model), find_regions(Graph(model), infer_shapes(model))
    statistics = calibrate(model, regions, context, "the model")
    problem = pose(graph, regions, infer_shapes(model, one), statistics, options or PlanOptions(copies=COPIES))
    rng = np.random.default_rng(5)
    return problem.damaged({c.index: float(rng.uniform(1, 3)) for c in problem.candidates})
