"""PP-OCR, text in pictures: is a line upside down (v2.0), where are lines (v4), what do they say (v4).

    ppocr_cls    `x` [N, 3, 48, 192], BGR, value / 127.5 - 1, to probabilities [N, 2]: upright, turned by 180 degrees
    ppocr_rec    `x` [N, 3, 48, 320], the same, to probabilities [N, 40, 6625] of characters; 0 is none (CTC)
    ppocr_det    `x` [N, 3, 320, 480], the same, to a map [N, 1, 320, 480] of how likely there is text
    ppocr_pages  the same with 32 pages to calibrate in place of 8, as many as a fit of the weights wants

The lines are rendered (`models.lines`) from sentences of Python's manual; the labels are what was rendered.  The files
of the package are brought to opset 17, with fixed picture sizes and batch norm folded.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import version_converter
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image

from models.data.lines import page, picture, words
from models.data.text import sentences
from models.networks.zoo import Built

__all__ = ["build"]

Array = npt.NDArray[Any]
FILES = {
    "ppocr_cls": ("ch_ppocr_mobile_v2.0_cls_infer.onnx", 48, 192),
    "ppocr_rec": ("ch_PP-OCRv4_rec_infer.onnx", 48, 320),
    "ppocr_det": ("ch_PP-OCRv4_det_infer.onnx", 320, 480),
    "ppocr_pages": ("ch_PP-OCRv4_det_infer.onnx", 320, 480),
}
# calibration, test
COUNTS = {"ppocr_cls": (48, 192), "ppocr_rec": (48, 128), "ppocr_det": (8, 48), "ppocr_pages": (32, 48)}
LONGEST = 24  # characters in a line
OPSET = 17


def convert(source: Path, target: Path, height: int, width: int) -> list[str]:
    """Bring a file of the package to what quantizers and onnx_ocs read; returns the characters that it knows."""
    model = onnx.load(source)
    properties: dict[str, str] = {p.key: p.value for p in model.metadata_props}
    characters = properties.get("character", "").splitlines()
    known = [n for n in model.graph.node if n.op_type == "Constant" and n.attribute[0].name == "value"]
    for node in known:
        node.attribute[0].t.name = node.output[0]
        model.graph.initializer.append(node.attribute[0].t)
        model.graph.node.remove(node)
    model = version_converter.convert_version(model, OPSET)
    for k, extent in enumerate(("N", 3, height, width)):
        dim = model.graph.input[0].type.tensor_type.shape.dim[k]
        dim.Clear()
        if isinstance(extent, str):
            dim.dim_param = extent
        else:
            dim.dim_value = extent
    for dim in model.graph.output[0].type.tensor_type.shape.dim:
        dim.Clear()  # inferred below
    del model.graph.value_info[:], model.metadata_props[:]
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            onnx.save(model, Path(folder) / "converted.onnx")
            quant_pre_process(Path(folder) / "converted.onnx", target, skip_symbolic_shape=True)
    finally:
        logging.disable(logging.NOTSET)
    onnx.checker.check_model(onnx.load(target), full_check=True)
    return characters


def prepare(image: Image.Image, height: int, width: int) -> Array:
    """float32 [3, height, width]: as wide as its height allows, filled up with zeros on the right; BGR."""
    out = np.zeros((3, height, width), np.float32)
    wide = min(width, -(-height * image.width // image.height))
    pixels = np.asarray(image.resize((wide, height), Image.Resampling.BILINEAR), np.float32)
    out[:, :, :wide] = (pixels[:, :, ::-1] / 127.5 - 1).transpose(2, 0, 1)
    return out


def upright_or_turned(texts: list[str], rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Every second line upside down; label 1 for those."""
    images = []
    for k, text in enumerate(texts):
        image = picture(text, rng)
        images.append(prepare(image.rotate(180) if k % 2 else image, *shape))
    return np.stack(images), np.arange(len(texts)) % 2


def readable(
    texts: list[str], rng: np.random.Generator, shape: tuple[int, int], characters: list[str]
) -> tuple[Array, Array]:
    """Lines and what they say: class numbers, filled up with zeros."""
    number = {c: k + 1 for k, c in enumerate(characters)} | {" ": len(characters) + 1}
    labels = np.zeros((len(texts), LONGEST), np.int64)
    for row, text in zip(labels, texts, strict=True):
        row[: len(text)] = [number[c] for c in text]
    return np.stack([prepare(picture(text, rng), *shape) for text in texts]), labels


def pages(texts: list[str], count: int, rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Pages and the boxes of their lines, filled up with -1."""
    height, width = shape
    made = [page([texts[i] for i in rng.permutation(len(texts))], (width, height), rng) for _ in range(count)]
    labels = np.full((count, max(len(boxes) for _, boxes in made), 4), -1, np.int64)
    for row, (_, boxes) in zip(labels, made, strict=True):
        row[: len(boxes)] = boxes
    return np.stack([prepare(image, height, width) for image, _ in made]), labels


def build(name: str, folder: Path, seed: int) -> Built:
    """Convert, render samples; see `models.zoo.Network.build`."""
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    assert spec is not None and spec.origin is not None
    file, *shape = FILES[name]
    size = (shape[0], shape[1])
    built = Built.at(folder, name)
    assert built.test is not None
    characters = convert(Path(spec.origin).parent / "models" / file, built.float_model, *size)

    said, _ = sentences(seed)
    half = len(said) // 2
    for test, (path, own) in enumerate(((built.calib, said[:half]), (built.test, said[half:]))):
        rng = np.random.default_rng((seed, test))
        count = COUNTS[name][test]
        texts = [words(own[k % half], rng, LONGEST) for k in range(count)]
        if name == "ppocr_cls":
            x, labels = upright_or_turned(texts, rng, size)
        elif name == "ppocr_rec":
            x, labels = readable(texts, rng, size, characters)
        else:
            x, labels = pages(own, count, rng, size)
        if test:
            np.savez_compressed(path, x=x, labels=labels)
        else:
            np.savez_compressed(path, x=x)
    return built
