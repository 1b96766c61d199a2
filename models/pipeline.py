"""From a torch module to a deployed file: export, quantize with onnxruntime or NNCF, rewrite, run.

    python models/pipeline.py OUT_FOLDER [--gate DB] [--quantizer nncf]

Needs the extra `models` (torch, scikit-learn; `pip install nncf` for NNCF) and a quarter of a minute.  Writes
OUT_FOLDER/float.onnx (torch.onnx), int8.onnx (onnxruntime's quantize_static, or nncf.quantize), wide.onnx and
report.json (onnx_ocs), and prints what each of them answers on held-out images.  Exits with 1 when wide.onnx does not
bring at least DB dB: the last step of a release job.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import onnx_ocs
from onnx_ocs.report.report import to_json

Array = npt.NDArray[Any]


class Reader(CalibrationDataReader):
    """Calibration images in batches; the same reader serves the quantizer and the rewriter."""

    def __init__(self, images: Array) -> None:
        self.feeds: Iterator[dict[str, Array]] = iter([{"image": part} for part in np.array_split(images, 16)])

    def get_next(self) -> dict[str, Array] | None:
        """The next batch, None at the end."""
        return next(self.feeds, None)


def train(images: Array, labels: Array) -> nn.Module:
    """A small convolutional network, trained for a few seconds."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(15):
        for rows in torch.split(torch.randperm(len(x)), 64):
            loss = nn.functional.cross_entropy(network(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


def export(network: nn.Module, path: Path) -> None:
    """torch.onnx.export, with the batch left open."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the newer exporter (dynamo=True) also needs onnxscript
        torch.onnx.export(
            network,
            (torch.zeros(2, 1, 8, 8),),
            path,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
            opset_version=17,
            dynamo=False,
        )


def quantize_onnxruntime(float_path: Path, int8_path: Path, calib: Array) -> None:
    """8 bits, activations calibrated to the 99.9th percentile."""
    quantize_static(
        float_path,
        int8_path,
        Reader(calib),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.Percentile,
        extra_options={"CalibPercentile": 99.9},
    )


def quantize_nncf(float_path: Path, int8_path: Path, calib: Array) -> None:
    """8 bits, NNCF as it comes: ranges from the images' mean extremes, biases corrected."""
    import nncf

    feeds = [{"image": image[None]} for image in calib]
    onnx.save(nncf.quantize(onnx.load(float_path), nncf.Dataset(feeds), subset_size=len(feeds)), int8_path)


QUANTIZERS = {"onnxruntime": quantize_onnxruntime, "nncf": quantize_nncf}


def logits(path: Path, images: Array) -> Array:
    """What a deployed file answers, with onnxruntime's integer kernels."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # or int8 kernels saturate without VNNI
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    out: Array = session.run(None, {"image": images})[0]
    return out


def main() -> int:
    """Command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path, metavar="OUT_FOLDER")
    parser.add_argument("--gate", type=float, default=0.0, metavar="DB", help="smallest gain in dB, default 0")
    parser.add_argument("--quantizer", choices=QUANTIZERS, default="onnxruntime", help="default onnxruntime")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    float_path, int8_path, wide_path = (args.out / f"{name}.onnx" for name in ("float", "int8", "wide"))

    digits = load_digits()
    images = digits.images.astype(np.float32)[:, None] / 16
    train_x, test_x, train_y, test_y = train_test_split(images, digits.target, test_size=450, random_state=0)
    calib = train_x[:256]

    export(train(train_x, train_y), float_path)
    QUANTIZERS[args.quantizer](float_path, int8_path, calib)
    result = onnx_ocs.rewrite(
        int8_path, wide_path, calib=Reader(calib), float_model=float_path, options=onnx_ocs.PlanOptions(budget=0.1)
    )
    (args.out / "report.json").write_text(to_json(result.report), encoding="utf-8")

    reference = logits(float_path, test_x)
    gains = []
    print("| file | top-1 | logits SQNR |")
    print("|---|---|---|")
    for path in (float_path, int8_path, wide_path):
        answer = logits(path, test_x)
        noise = float(np.sum((reference - answer) ** 2))
        gains.append(10 * np.log10(float(np.sum(reference**2)) / noise) if noise else np.inf)
        top1 = np.mean(answer.argmax(axis=1) == test_y)
        print(f"| {path.name} | {top1:.2%} | {'' if noise == 0 else f'{gains[-1]:.2f} dB'} |")
    return 0 if result.changed and gains[2] >= gains[1] + args.gate else 1


if __name__ == "__main__":
    sys.exit(main())
