"""Two networks with GELU, trained on scikit-learn's digits: no pretrained ones of this size are to be had.

    convgelu    conv - GELU - conv - GELU - ... - global average - linear: five 3x3 convolutions, batch norm folded
    vit         vision transformer: patches of 2x2, class token, pre-norm blocks of attention and MLP

Both have the input `pixels` [N, 1, 8, 8] with values 0..16 and the output `logits` [N, 10].  The float model has opset
17, where GELU is written with Erf; `NAME.opset20.onnx` is the same network with the operator Gelu.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from models.networks.digits import conv_bn, fold
from models.networks.training import export, fit, split_digits, write
from models.networks.zoo import Built

__all__ = ["build"]

EPOCHS = {"convgelu": 30, "vit": 90}
PEAK = {"convgelu": 5e-3, "vit": 2e-3}  # learning rate
PIXEL = 16.0  # largest value


def conv_gelu() -> nn.Module:
    """Two convolutions at 8x8, three at 4x4, a GELU behind each."""
    layers: list[nn.Module] = []
    inputs = 1
    for outputs in (16, 16, 32, 32, 32):
        if (inputs, outputs) == (16, 32):
            layers.append(nn.MaxPool2d(2))
        layers += [conv_bn(inputs, outputs, 3), nn.GELU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.gelu, self.down = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, tokens, width] -> the same."""
        tokens = x.shape[1]
        parts = self.qkv(self.norm1(x)).reshape(-1, tokens, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        query, key, value = parts[0], parts[1], parts[2]
        weights = (query @ key.transpose(-2, -1) * self.size**-0.5).softmax(dim=-1)
        mixed = (weights @ value).transpose(1, 2).reshape(-1, tokens, self.heads * self.size)
        x = x + self.project(mixed)
        return x + self.down(self.gelu(self.up(self.norm2(x))))


class VisionTransformer(nn.Module):
    """Patch embedding, class token, learned positions, blocks, norm, linear."""

    def __init__(self, width: int = 32, heads: int = 4, depth: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.token = nn.Parameter(0.5 * torch.randn(1, 1, width))
        self.places = nn.Parameter(0.5 * torch.randn(1, 17, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, 1, 8, 8] -> logits [N, 10]."""
        patches = self.patches(pixels / PIXEL).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(pixels.shape[0], -1, -1), patches], dim=1) + self.places
        return self.head(self.norm(self.blocks(x))[:, 0])


MAKE = {"convgelu": conv_gelu, "vit": VisionTransformer}


def build(name: str, folder: Path, seed: int) -> Built:
    """Train, fold, write; see `models.zoo.Network.build`."""
    built, split = Built.at(folder, name), split_digits(seed)
    network = fold(fit(MAKE[name], split, EPOCHS[name], seed, PEAK[name]))
    write(network, split, built)
    export(network, {"pixels": torch.zeros(2, 1, 8, 8)}, "logits", folder / f"{name}.opset20.onnx", opset=20)
    return built
