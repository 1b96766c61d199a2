"""Random samples, for who has no others: seeded, in the range of the quantizer that reads them, of a size that runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx

from onnx_ocs.calibration.declared import InputSpec, input_specs
from onnx_ocs.calibration.samples import Samples
from onnx_ocs.errors import UserError
from onnx_ocs.model.nodes import Array
from onnx_ocs.runtime.session import RUN_ERRORS, Session

__all__ = ["random_samples", "usual_size"]

MOST_VALUES = 1 << 28  # of a random sample
SIDE = 16  # of a free dimension
SIDES = (224, *range(32, 224, 32), *range(256, 641, 32))  # of images, the most usual one first
PICTURE = 4  # axes of a picture: its height and width are the last two


def random_samples(
    model: onnx.ModelProto,
    count: int,
    seed: int,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    side: int = SIDE,
) -> Samples:
    """Make seeded random samples: floats ~ N(0, 1), integers and booleans in {0, 1}.

    A float input with a known range (low, high) gets values that fill it: normal, four deviations wide.

    A dynamic first dimension is 1, others `side`; with a fixed first, B, a feed counts as B samples (``count`` rounded
    up).

    Raises:
        UserError: an input has another type, an unknown shape, or is too large.
    """
    shapes = {}
    for spec in input_specs(model):
        if spec.shape is None or spec.dtype.kind not in "fiub" or count < 1:
            raise UserError(f"{count} random samples cannot be made for {spec}: give samples, or a count of 1 or more")
        shapes[spec] = _sized(spec, side)
        if math.prod(shapes[spec]) > MOST_VALUES:
            raise UserError(f"{spec} is too large to be filled with random samples: give samples, or --no-verify")
    if not shapes:
        raise UserError("the model has no inputs, so no samples can be fed to it: give a model with an input")
    size = next((shape[0] for shape in shapes.values() if shape), 1)

    def feeds(*__: int) -> Iterator[tuple[int, dict[str, Any]]]:
        rng = np.random.default_rng(seed)
        for _ in range(0, count, size):
            drawn = {spec: np.asarray(rng.standard_normal(shape)) for spec, shape in shapes.items()}
            for spec in drawn:
                if spec.dtype.kind == "f" and ranges is not None and spec.name in ranges:
                    low, high = ranges[spec.name]
                    drawn[spec] = drawn[spec] * (high - low) / 4 + (low + high) / 2
            yield size, {s.name: (x if s.dtype.kind == "f" else x > 0).astype(s.dtype) for s, x in drawn.items()}

    sized = "" if side == SIDE else f", free heights and widths {side}"
    return Samples(f"random inputs (seed {seed}{sized})", feeds, len(range(0, count, size)) * size)


def _sized(spec: InputSpec, side: int) -> list[int]:
    """The shape of a sample; only heights and widths of pictures have another side than `SIDE`."""
    shape = spec.shape or ()
    picture = len(shape) == PICTURE
    return [d or (1 if not k else side if picture and k >= PICTURE - 2 else SIDE) for k, d in enumerate(shape)]


def usual_size(model: onnx.ModelProto, seed: int = 0) -> int:
    """The side of free heights and widths at which a model runs, where it does not at `SIDE`.

    Args:
        model: the model.
        seed: of what it is run on.

    Returns:
        The first of the usual sizes at which it runs; `SIDE` where it runs there, has none, or runs at none.
    """
    specs = input_specs(model)
    free = [s for s in specs if s.shape is not None and len(s.shape) == PICTURE and None in s.shape[2:]]
    if not free:
        return SIDE
    try:
        session = Session(model, "disable_all")
    except RUN_ERRORS:
        return SIDE
    return next((side for side in (SIDE, *SIDES) if _runs(session, model, side, seed)), SIDE)


def _runs(session: Session, model: onnx.ModelProto, side: int, seed: int) -> bool:
    try:
        feed: Mapping[str, Array] = next(random_samples(model, 1, seed, side=side).batches(1, 1))
        session.run(feed)
    except RUN_ERRORS:
        return False
    return True
