"""The verbs calibrate and merge: statistics as files, counted by whatever can start a process, and added exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnx_ocs.calibration.collect import ALL
from onnx_ocs.calibration.collect import calibrate as count
from onnx_ocs.calibration.context import Context, Progress, quiet
from onnx_ocs.calibration.origin import shard as range_of
from onnx_ocs.calibration.samples import Source
from onnx_ocs.calibration.statistics import Statistics
from onnx_ocs.calibration.stream import BATCH
from onnx_ocs.errors import UserError
from onnx_ocs.execution.choice import Choice, engine
from onnx_ocs.model.files import fingerprint
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.regions.find import find_regions, folded_bounds
from onnx_ocs.regions.region import adjustable
from onnx_ocs.verbs.checks import answers_for_the_model, load
from onnx_ocs.verbs.common import Model, open_model

__all__ = ["calibrate", "merge"]


@answers_for_the_model
def calibrate(
    model: Model,
    calib: Source,
    shard: tuple[int, int] = (1, 1),
    float_model: Model | None = None,
    limit: int | None = None,
    progress: Progress = quiet,
    convert_qoperator: bool = False,
    executor: Choice = None,
) -> Statistics:
    """Count the activations of a model on calibration samples.

    Args:
        model: the QDQ model or its path; not changed.
        calib: calibration samples.
        shard: (K, N): the K-th (from 1 on) of N parts of the samples, which are whole feeds.
        float_model: the float model: it says which activations it bounds.
        limit: most samples, before they are divided.
        progress: called during long work.
        convert_qoperator: convert integer operators to QDQ first, as `plan` will do.
        executor: who counts (`onnx_ocs.execution.choice`); the result is the same.

    Returns:
        The statistics, which `merge` adds to those of other shards, and `plan` reads.

    Raises:
        UserError: the model or the samples cannot be used.
    """
    opened = open_model(model, calib, limit, 0, convert_qoperator)
    proto, samples = opened.model, opened.samples
    assert samples is not None
    part = range_of(*shard, samples.number(BATCH, limit))
    bounded = folded_bounds(proto, None if float_model is None else load(float_model))
    regions = find_regions(Graph(proto), infer_shapes(proto), bounded=bounded)
    with engine(executor) as workers:
        context = Context(samples, limit, progress=progress, bounded=bounded, engine=workers)
        return count(proto, regions, context, fingerprint(proto), list(adjustable(regions)), ALL, part, True)


def merge(paths: Sequence[str | Path], partial: bool = False) -> Statistics:
    """Add the statistics of shards; the order does not matter.

    Args:
        paths: the files.
        partial: whether shards may be missing, since the result will be merged with others.

    Returns:
        What one process would have counted, bit by bit.

    Raises:
        UserError: a file is none, they do not belong together, or a shard is missing or there twice.
    """
    if not paths:
        raise UserError("there is nothing to merge: give the statistics of all shards")
    total: Statistics | None = None
    for n, path in enumerate(paths):
        found = Statistics.read(path)
        if found.origin is None:
            raise UserError(f"{path}: does not say which samples it has seen: calibrate again")
        if total is None:
            total = found
        else:
            total.merge(found, (f"{paths[0]}" if n == 1 else "the files before", f"{path}"))
    assert total is not None and total.origin is not None
    if not partial and (missing := total.origin.missing):
        said = ", ".join(f"{a}" if b == a + 1 else f"{a} to {b - 1}" for a, b in missing)
        raise UserError(f"feeds {said} of {total.origin.feeds} are in none of the files: calibrate the missing shards")
    return total
