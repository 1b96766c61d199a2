"""Build the committed example: a small residual CNN on handwritten digits, in float and with 2-bit activations.

    python models/digits.py [--out FOLDER]

Needs the extra `models` (torch, scikit-learn) and half a minute on one core.  Writes beside this script (or to --out):

    digits.fp32.onnx    the float network, batch norm folded, opset 17, input `pixels` [N, 1, 8, 8] with values 0..16
    digits.w8a2.onnx    the same, quantized by lowbit.py: 8-bit weights, 2-bit activations, 8 bits at the two ends
    digits.calib.npz    `pixels`: 256 of the training images
    digits.test.npz     `pixels` and `labels`: the 450 held-out images

and prints what quantization costs on the held-out images.  Seeds are fixed and torch runs on one thread.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from lowbit import quantize
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Array = npt.NDArray[Any]

SEED = 0
WIDTH = 16
EPOCHS = 40
CALIB = 256


def conv_bn(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Module:
    """Convolution and batch norm, which `fold` makes one."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Basic(nn.Module):
    """relu(shortcut(x) + conv(relu(conv(x)))), 3x3."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = conv_bn(inputs, outputs, 3)
        self.second = conv_bn(outputs, outputs, 3)
        self.shortcut = conv_bn(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.inner, self.outer = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H, W]."""
        y: Tensor = self.second(self.inner(self.first(x)))
        return self.outer(y + self.shortcut(x))  # type: ignore[no-any-return]


class Inverted(nn.Module):
    """relu(x + project(relu(depthwise(relu(expand(x))))))."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.expand = conv_bn(channels, wide, 1)
        self.depthwise = conv_bn(wide, wide, 3, groups=wide)
        self.project = conv_bn(wide, channels, 1)
        self.relu1, self.relu2, self.outer = nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] -> the same."""
        y: Tensor = self.project(self.relu2(self.depthwise(self.relu1(self.expand(x)))))
        return self.outer(y + x)  # type: ignore[no-any-return]


class Digits(nn.Module):
    """Stem, two residual blocks at 8x8, max pooling, residual and inverted blocks at 4x4, average, linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(1, width, 3), nn.ReLU())
        self.block1 = Basic(width, width)
        self.block2 = Basic(width, width)
        self.pool = nn.MaxPool2d(2)
        self.block3 = Basic(width, 2 * width)
        self.block4 = Inverted(2 * width, 2)
        self.block5 = Basic(2 * width, 2 * width)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(2 * width, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, 1, 8, 8] -> logits [N, 10]."""
        x = self.block2(self.block1(self.stem(pixels)))
        x = self.block5(self.block4(self.block3(self.pool(x))))
        return self.head(self.flatten(self.average(x)))  # type: ignore[no-any-return]


def train(images: Array, labels: Array) -> nn.Module:
    """Train on images shifted by up to one pixel; returns the network with batch norm folded."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    x, y = nn.functional.pad(torch.from_numpy(images), (1, 1, 1, 1)), torch.from_numpy(labels)
    network, batch = Digits(WIDTH), 64
    optimizer = torch.optim.Adam(network.parameters())
    steps = EPOCHS * -(-len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(x)), batch):
            top, left = torch.randint(3, (2,)).tolist()
            logits = network(x[rows, :, top : top + 8, left : left + 8])
            loss = nn.functional.cross_entropy(logits, y[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return fold(network.eval())


def fold(module: nn.Module) -> nn.Module:
    """Replace every (Conv2d, BatchNorm2d) pair made by `conv_bn` with one convolution that has a bias."""
    for name, child in module.named_children():
        setattr(module, name, fold(child))
    if isinstance(module, nn.Sequential) and len(module) == 2 and isinstance(module[1], nn.BatchNorm2d):
        assert isinstance(module[0], nn.Conv2d)
        return fuse_conv_bn_eval(module[0], module[1])
    return module


def export(network: nn.Module, path: Path) -> onnx.ModelProto:
    """Write the network as ONNX and read it back.

    By torch's older exporter, which has announced its end: the newer one needs a further package.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network,
            (torch.zeros(2, 1, 8, 8),),
            path,
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_axes={"pixels": {0: "N"}, "logits": {0: "N"}},
            opset_version=17,
            dynamo=False,
        )
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, pixels: Array) -> Array:
    """Logits by onnxruntime, with every QuantizeLinear and DequantizeLinear taken at its word (nothing fused)."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    logits: Array = session.run(["logits"], {"pixels": pixels})[0]
    return logits


def sqnr_db(reference: Array, output: Array) -> float:
    """Signal to quantization noise, 10 * log10(sum(ref^2) / sum((ref - out)^2))."""
    return float(10 * np.log10(np.sum(reference**2) / np.sum((reference - output) ** 2)))


def main() -> int:
    """Command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="FOLDER", help="default: models/")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    data = load_digits()
    images = data.images.astype(np.float32)[:, None]
    labels = data.target.astype(np.int64)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=450, stratify=labels, random_state=SEED
    )
    calib = {"pixels": train_x[:CALIB]}

    model = export(train(train_x, train_y), out / "digits.fp32.onnx")
    quantized = quantize(model, calib, act_bits=2)
    (out / "digits.w8a2.onnx").write_bytes(quantized.SerializeToString(deterministic=True))
    np.savez_compressed(out / "digits.calib.npz", **calib)
    np.savez_compressed(out / "digits.test.npz", pixels=test_x, labels=test_y)

    reference, low = run(model, test_x), run(quantized, test_x)
    accuracy = [float(np.mean(logits.argmax(axis=1) == test_y)) for logits in (reference, low)]
    print(f"| {len(test_x)} held-out images | top-1 | logits SQNR |")
    print("|---|---|---|")
    print(f"| digits.fp32.onnx | {accuracy[0]:.2%} | |")
    print(f"| digits.w8a2.onnx | {accuracy[1]:.2%} | {sqnr_db(reference, low):.2f} dB |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
