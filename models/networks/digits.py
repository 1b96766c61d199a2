"""Build the committed example: a small residual CNN on handwritten digits, in float and with 2-bit activations.

    python -m models.networks.digits [--out FOLDER]

Needs the extra `models` (torch, scikit-learn) and half a minute on one core.  Writes to models/ (or to --out):

    digits.fp32.onnx    the float network, batch norm folded, opset 17, input `pixels` [N, 1, 8, 8] with values 0..16
    digits.w8a2.onnx    quantized by quantizers/lowbit.py: 8-bit weights, 2-bit activations, 8 bits at the two ends
    digits.calib.npz    `pixels`: 256 of the training images
    digits.test.npz     `pixels` and `labels`: the 450 held-out images

and prints what quantization costs on the held-out images.  Seeds are fixed and torch runs on one thread.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.commandline import exit_code
from models.evaluate import measure
from models.networks.training import fit, split_digits, write
from models.networks.zoo import Built, find_network
from models.quantizers.registry import find_quantizer

__all__ = ["conv_bn", "fold"]

WIDTH = 16
EPOCHS = 40


HERE = Path(__file__).resolve().parents[1]


def conv_bn(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Module:
    """Convolution and batch norm, which `fold` makes one."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Basic(nn.Module):
    """relu(shortcut(x) + conv(relu(conv(x)))), 3x3."""

    def __init__(self, inputs: int, outputs: int, inside: float) -> None:
        super().__init__()
        inner = int(inside * outputs)
        self.first = conv_bn(inputs, inner, 3)
        self.second = conv_bn(inner, outputs, 3)
        self.shortcut = conv_bn(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.inner, self.outer = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H, W]."""
        y: Tensor = self.second(self.inner(self.first(x)))
        return self.outer(y + self.shortcut(x))


class Inverted(nn.Module):
    """relu(x + project(relu(depthwise(relu(expand(x))))))."""

    def __init__(self, channels: int, expansion: float) -> None:
        super().__init__()
        wide = int(channels * expansion)
        self.expand = conv_bn(channels, wide, 1)
        self.depthwise = conv_bn(wide, wide, 3, groups=wide)
        self.project = conv_bn(wide, channels, 1)
        self.relu1, self.relu2, self.outer = nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] -> the same."""
        y: Tensor = self.project(self.relu2(self.depthwise(self.relu1(self.expand(x)))))
        return self.outer(y + x)


class Digits(nn.Module):
    """Stem, two residual blocks at 8x8, max pooling, residual and inverted blocks at 4x4, average, linear.

    `inside` multiplies the channels between a block's layers, where no other block reads them.
    """

    def __init__(self, width: int, inside: float = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(1, width, 3), nn.ReLU())
        self.block1 = Basic(width, width, inside)
        self.block2 = Basic(width, width, inside)
        self.pool = nn.MaxPool2d(2)
        self.block3 = Basic(width, 2 * width, inside)
        self.block4 = Inverted(2 * width, 2 * inside)
        self.block5 = Basic(2 * width, 2 * width, inside)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(2 * width, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, 1, 8, 8] -> logits [N, 10]."""
        x = self.block2(self.block1(self.stem(pixels)))
        x = self.block5(self.block4(self.block3(self.pool(x))))
        return self.head(self.flatten(self.average(x)))


def fold(module: nn.Module) -> nn.Module:
    """Replace every (Conv2d, BatchNorm2d) pair made by `conv_bn` with one convolution that has a bias."""
    for name, child in module.named_children():
        setattr(module, name, fold(child))
    if isinstance(module, nn.Sequential) and len(module) == 2 and isinstance(module[1], nn.BatchNorm2d):
        assert isinstance(module[0], nn.Conv2d)
        return fuse_conv_bn_eval(module[0], module[1])
    return module


def build(name: str, folder: Path, seed: int) -> Built:
    """Train, fold, write; see `models.zoo.Network.build`."""
    built, split = Built.at(folder, name), split_digits(seed)
    inside = 1.5 if name == "digits-wide" else 1
    write(fold(fit(lambda: Digits(WIDTH, inside), split, EPOCHS, seed)), split, built)
    return built


def show(out: Path) -> None:
    """Build, quantize and measure."""
    network = find_network("digits")
    built = network.build(out)
    low = out / "digits.w8a2.onnx"
    find_quantizer("lowbit", act_bits=2)(built.float_model, low, built.calib)
    models = [built.float_model, low]
    print("| 450 held-out images | top-1 | logits SQNR |")
    print("|---|---|---|")
    for path, scores in zip(models, measure(network, built, models), strict=True):
        sqnr = "" if scores.sqnr_db is None else f"{scores.sqnr_db:.2f} dB"
        print(f"| {path.name} | {scores.task:.2f}% | {sqnr} |")


def main() -> int:
    """Command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=HERE, metavar="FOLDER", help="default: models/")
    args = parser.parse_args()
    return exit_code(lambda: show(args.out))


if __name__ == "__main__":
    sys.exit(main())
