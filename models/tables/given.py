"""A network that is not part of this repository: its files lie in a folder, and the seeds draw calibration samples.

The files are those of `models.networks.zoo.Built`: NAME.fp32.onnx, NAME.calib.npz, of whose samples each seed draws
half, and NAME.test.npz with `labels` where there are any.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.networks.zoo import Built, Network
from models.tables.bench import Bench
from onnx_ocs.errors import UserError

__all__ = ["Given", "name_in"]


def name_in(folder: Path) -> str:
    """The name of the network whose files are in a folder.

    Raises:
        UserError: there is none, or more than one.
    """
    found = sorted(p.name.removesuffix(".fp32.onnx") for p in folder.glob("*.fp32.onnx"))
    if len(found) != 1:
        raise UserError(f"{folder} holds {len(found)} files NAME.fp32.onnx: give the folder of one network")
    built = Built.at(folder, found[0])
    for path in (built.calib, built.test):
        if path is None or not path.is_file():
            raise UserError(f"there is no file {path}")
    return found[0]


@dataclass(frozen=True)
class Given(Bench):
    """The network of a folder, for every name that is asked for.

    Attributes:
        given: the folder.
        metric: one of `models.tables.metrics.METRICS`.
    """

    given: Path = Path()
    metric: str = "top1"

    def network(self, name: str) -> Network:
        """What is known of it."""
        return Network(name, "not part of this repository", "given", "", self.metric, "")

    def built(self, network: str) -> Iterator[Built]:
        """Its files, with other calibration samples for each seed; drawn once, and kept."""
        source = Built.at(self.given, network)
        for seed in range(self.seeds):
            calib = self.folder / f"{network}-{seed}" / f"{network}.calib.npz"
            if not calib.exists():
                calib.parent.mkdir(parents=True, exist_ok=True)
                with np.load(source.calib, allow_pickle=False) as z:
                    arrays = dict(z)
                count = min(map(len, arrays.values()))
                drawn = np.sort(np.random.default_rng(seed).permutation(count)[: count // 2])
                np.savez(calib, **{k: v[drawn] for k, v in arrays.items()})
            yield Built(source.float_model, calib, source.test)
