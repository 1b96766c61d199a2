"""Task metric, agreement with the float network and SQNR of models of one network, on its test samples.

    python models/evaluate.py [--network NAME] [--folder FOLDER] MODEL.onnx [...]

FOLDER holds what `python -m models build NAME` wrote; the default is the digits network beside this script.  Q/DQ nodes
are computed as written (`session.disable_quant_qdq = 1`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

if not __package__:  # run as a script
    sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

from models.commandline import exit_code
from models.networks.zoo import Built, Network, find_network
from models.tables.metrics import METRICS, Scores, evaluate, first_output, score
from onnx_ocs.errors import UserError

__all__ = ["measure", "row"]

HERE = Path(__file__).resolve().parent


def measure(network: Network, built: Built, models: list[Path]) -> list[Scores]:
    """The scores of models of a network, in their order.

    Raises:
        UserError: the network's files are not there.
    """
    if built.test is None or not (built.test.exists() and built.float_model.exists()):
        folder = built.float_model.parent
        raise UserError(
            f"{folder} does not hold the network {network.name}: python -m models build {network.name} --out {folder}"
        )
    with np.load(built.test, allow_pickle=False) as z:
        samples = dict(z)
    reference = first_output(built.float_model, samples)
    itself = score(reference, reference, samples.get("labels"), network.metric)
    return [itself if p == built.float_model else evaluate(p, reference, samples, network.metric) for p in models]


def row(network: Network, name: str, scores: Scores) -> str:
    """One line about one model."""
    metric = METRICS[network.metric]
    task = "" if scores.task is None else f"{metric.task} {scores.task:6.2f} %   "
    sqnr = "identical" if scores.sqnr_db is None else f"{scores.sqnr_db:6.2f} dB"
    return f"{name:24} {task}{metric.agreement} {scores.agreement:6.2f} %   SQNR {sqnr}"


def show(name: str, folder: Path, models: list[Path]) -> None:
    """Print a row for each model.

    Raises:
        UserError: there is no such network, or it is not in the folder, or a file is not there.
    """
    network = find_network(name)
    for path in models:
        if not path.exists():
            raise UserError(f"there is no file {path}")
    for path, scores in zip(models, measure(network, Built.at(folder, name), models), strict=True):
        print(row(network, path.name, scores))


def main() -> int:
    """Command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--network", default="digits", metavar="NAME", help="default: digits")
    parser.add_argument("--folder", type=Path, default=HERE, help="where it was built; default: beside this script")
    args = parser.parse_args()
    return exit_code(lambda: show(args.network, args.folder, args.models))


if __name__ == "__main__":
    sys.exit(main())
