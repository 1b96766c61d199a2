"""What the networks trained here share: scikit-learn's digits, one training loop, torch's exporter."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from models.networks.zoo import Built

__all__ = ["Split", "export", "fit", "split_digits", "write"]

Array = npt.NDArray[Any]
TEST, CALIB = 450, 256


class Split(NamedTuple):
    """Images float32 [N, 1, 8, 8] with values 0..16, and their digits."""

    train_x: Array
    test_x: Array
    train_y: Array
    test_y: Array


def split_digits(seed: int) -> Split:
    """1,347 images to train on and 450 that are held out, the same share of every digit."""
    data = load_digits()
    images = data.images.astype(np.float32)[:, None]
    labels = data.target.astype(np.int64)
    return Split(*train_test_split(images, labels, test_size=TEST, stratify=labels, random_state=seed))


def fit(make: Callable[[], nn.Module], split: Split, epochs: int, seed: int, peak: float = 5e-3) -> nn.Module:
    """Train a network on images shifted by up to one pixel, on one thread.

    Args:
        make: makes the network; called with the seed set.
        split: the data.
        epochs: passes over the training images.
        seed: of weights, order and shifts.
        peak: highest learning rate of the one cycle.

    Returns:
        The network, in evaluation mode.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    x = nn.functional.pad(torch.from_numpy(split.train_x), (1, 1, 1, 1))
    y = torch.from_numpy(split.train_y)
    network, batch = make(), 64
    optimizer = torch.optim.Adam(network.parameters())
    steps = epochs * -(-len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=peak, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(x)), batch):
            top, left = torch.randint(3, (2,)).tolist()
            logits = network(x[rows, :, top : top + 8, left : left + 8])
            loss = nn.functional.cross_entropy(logits, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def export(network: nn.Module, example: Mapping[str, torch.Tensor], output: str, path: Path, opset: int = 17) -> None:
    """Write a network as ONNX, the first axis of inputs and output left open, and check it.

    By torch's older exporter, which has announced its end: the newer one needs a further package.

    Args:
        network: in evaluation mode.
        example: an input for each name.
        output: name of the output.
        path: where to.
        opset: of the file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "Constant folding", UserWarning)
        torch.onnx.export(
            network,
            tuple(example.values()),
            path,
            input_names=list(example),
            output_names=[output],
            dynamic_axes={name: {0: "N"} for name in (*example, output)},
            opset_version=opset,
            dynamo=False,
        )
    onnx.checker.check_model(onnx.load(path), full_check=True)


def write(network: nn.Module, split: Split, built: Built) -> None:
    """Export a digits network (`pixels` -> `logits`), and write its calibration and test samples."""
    export(network, {"pixels": torch.zeros(2, 1, 8, 8)}, "logits", built.float_model)
    assert built.test is not None
    np.savez_compressed(built.calib, pixels=split.train_x[:CALIB])
    np.savez_compressed(built.test, pixels=split.test_x, labels=split.test_y)
