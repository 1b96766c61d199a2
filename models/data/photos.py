"""Real photographs without labels: those that scikit-image and scikit-learn ship in their packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["crops"]

Array = npt.NDArray[Any]
FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}
CALIB = "astronaut.png brick.png cell.png coffee.png grass.png ihc.png motorcycle_left.png rocket.jpg china.jpg"
TEST = "camera.png chelsea.png coins.png color.png gravel.png hubble_deep_field.jpg moon.png retina.jpg flower.jpg"


def _find(name: str) -> Image.Image:
    for package, folder in FOLDERS.items():
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin is not None
        path = Path(spec.origin).parent / folder / name
        if path.exists():
            return Image.open(path).convert("RGB")
    raise FileNotFoundError(name)


def crops(size: int, count: int, seed: int, test: bool) -> Array:
    """Random square crops, half of them mirrored, scaled to `size`.

    Args:
        size: pixels a side.
        count: how many; they are drawn from the photographs in turn.
        seed: of place, side and mirroring.
        test: from the photographs for tests, else from those for calibration; no photograph is in both.

    Returns:
        uint8 [count, size, size, 3], RGB.
    """
    rng = np.random.default_rng((seed, test))
    photographs = [_find(name) for name in (TEST if test else CALIB).split()]
    out = np.empty((count, size, size, 3), np.uint8)
    for k in range(count):
        image = photographs[k % len(photographs)]
        side = int(min(image.size) * rng.uniform(0.4, 1.0))
        left, top = (int(rng.integers(extent - side + 1)) for extent in image.size)
        part = image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
        out[k] = np.asarray(part)[:, :: rng.choice([1, -1])]
    return out
