"""Text lines as pictures: English words in the DejaVu fonts that come with matplotlib, on noisy paper.

Nothing here is a photograph; it is what can be had with its labels from packages alone.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

__all__ = ["page", "picture", "words"]

Array = npt.NDArray[Any]
FONTS = ("Sans", "Sans-Bold", "Sans-Oblique", "Serif", "Serif-Italic", "SansMono")
MARGIN = 0.25  # of the font's size


def _font(rng: np.random.Generator, size: int) -> ImageFont.FreeTypeFont:
    spec = importlib.util.find_spec("matplotlib")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(folder / f"DejaVu{FONTS[rng.integers(len(FONTS))]}.ttf", size)


def _colours(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Paper and ink, one light and one dark."""
    light, dark = (tuple(int(v) for v in rng.integers(*span, size=3)) for span in ((180, 256), (0, 90)))
    return (light, dark) if rng.random() < 0.8 else (dark, light)


def _worn(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Blur and noise, as from a camera."""
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.0))), np.float64)
    noisy = soft + rng.normal(0, rng.uniform(0, 12), soft.shape)
    return Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def words(sentence: str, rng: np.random.Generator, most: int) -> str:
    """A stretch of whole words of a sentence with at most `most` characters."""
    parts = sentence.split()
    start = int(rng.integers(max(len(parts) - 3, 1)))
    text = ""
    for part in parts[start:]:
        if len(text) + 1 + len(part) > most:
            break
        text = f"{text} {part}".strip()
    return text or parts[start][:most]


def picture(text: str, rng: np.random.Generator) -> Image.Image:
    """One line of text, about as high as its letters."""
    size = int(rng.integers(24, 49))
    font, (paper, ink) = _font(rng, size), _colours(rng)
    left, top, right, bottom = font.getbbox(text)
    pad = int(size * MARGIN)
    image = Image.new("RGB", (int(right - left) + 2 * pad, int(bottom - top) + 2 * pad), paper)
    ImageDraw.Draw(image).text((pad - left, pad - top), text, ink, font)
    return _worn(image.rotate(rng.uniform(-1.0, 1.0), Image.Resampling.BICUBIC, fillcolor=paper), rng)


def page(texts: list[str], size: tuple[int, int], rng: np.random.Generator) -> tuple[Image.Image, Array]:
    """Lines of text below one another.

    Args:
        texts: what to write, from the top, until the page is full.
        size: width and height of the page in pixels.
        rng: of fonts, sizes, colours and places.

    Returns:
        The page, and the boxes int64 [lines, 4] of its lines: left, top, right, bottom.
    """
    paper, ink = _colours(rng)
    image = Image.new("RGB", size, paper)
    draw, boxes, y = ImageDraw.Draw(image), [], int(rng.integers(10, 40))
    for text in texts:
        font = _font(rng, int(rng.integers(18, 41)))
        line = text
        while font.getlength(line) > size[0] - 40 and " " in line:
            line = line.rsplit(" ", 1)[0]
        x = int(rng.integers(10, max(size[0] - int(font.getlength(line)) - 10, 11)))
        left, top, right, bottom = (int(v) for v in font.getbbox(line))
        if y + bottom - top > size[1] - 10:
            break
        draw.text((x - left, y - top), line, ink, font)
        boxes.append((x, y, x + right - left, y + bottom - top))
        y += bottom - top + int(rng.integers(14, 60))
    return _worn(image, rng), np.array(boxes, np.int64)
