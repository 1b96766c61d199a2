"""Plans at random."""

from __future__ import annotations

import numpy as np
import onnx

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.planning.plan import Plan, PlannedRegion
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Early, Region
from onnx_ocs.regions.steps import check_rescale


def random_plan(model: onnx.ModelProto, seed: int, folds: bool = False) -> Plan:
    """Any copies, on both sides, and any step, for most regions; with `folds` for those that no layer reads, too."""
    rng, graph = np.random.default_rng(seed), Graph(model)
    regions = find_regions(graph, infer_shapes(model))
    carried = {id(n) for r in regions if isinstance(r, Region) for n in r.walk.carried}
    planned = []
    for r in regions:
        if not isinstance(r, Region):
            continue
        open_to_copies = r.refusal is None or (folds and r.fold_only)
        fit = open_to_copies and not any(id(n) in carried for n in r.nodes)
        if not fit or rng.random() < 0.1:
            continue
        q, walk = r.quantizer, r.walk
        copies = np.full(walk.channels, rng.integers(1, 3)) if rng.random() < 0.4 else rng.integers(0, 4, walk.channels)
        low = rng.integers(0, 3, walk.channels) * int(np.any(q.x_low > 0))
        scale = (q.scale * rng.choice([1.0, rng.uniform(0.3, 1.2)])).astype(q.float_dtype).astype(np.float64)
        if check_rescale(graph, r, scale) is not None:
            scale = q.scale
        if isinstance(r.early, Early):
            copies = np.minimum(copies, np.floor((r.early.copies + 1) * (q.scale / scale).max() - 1)).astype(np.int64)
        mode = str(rng.choice(["early", "late"]))
        planned.append(PlannedRegion(r.tensor, r.outputs, scale, copies, low.astype(np.int64), mode))
    return Plan("", tuple(planned))
