"""`python -m models`: benchmark networks, built from packages or trained here, and quantized.

python -m models list
python -m models build digits --quantizer lowbit --act-bits 2
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from models.commandline import command_line, exit_code
from models.networks.zoo import NETWORKS, find_network
from onnx_ocs.errors import UserError

QUANTIZERS = "ort-minmax, ort-entropy, ort-percentile, lowbit, reconstructed"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command_line("models", __doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list | build | rewrite")
    verbs.add_parser("list", help="the networks: source, licence, metric, what is not installed")
    build = verbs.add_parser("build", help="write a network, its samples, and quantize it if asked to")
    build.add_argument("name", metavar="NAME", help="one of those that `list` shows")
    build.add_argument("--quantizer", metavar="Q", help=f"quantize it too: {QUANTIZERS}")
    rewrite = verbs.add_parser("rewrite", help="build, quantize, rewrite and measure: a row for each network")
    rewrite.add_argument("names", nargs="+", metavar="NAME", help="those that `list` shows")
    rewrite.add_argument("--quantizer", metavar="Q", default="lowbit", help=f"{QUANTIZERS}; default lowbit")
    rewrite.add_argument("--budget", type=float, default=0.1, metavar="F", help="share of extra MACs, default 0.1")
    for verb in (build, rewrite):
        verb.add_argument("--out", type=Path, metavar="FOLDER", help="where to write; default: build/NAME")
        verb.add_argument(
            "--weight-bits", type=int, default=8, metavar="B", help="lowbit, reconstructed: 2 to 8, default 8"
        )
        verb.add_argument(
            "--act-bits", type=int, default=8, metavar="B", help="lowbit, reconstructed: 2 to 8, default 8"
        )
        verb.add_argument("--seed", type=int, default=0, help="of training and sampling, default 0")
    return parser.parse_args(argv)


def show(_args: argparse.Namespace) -> None:
    """Print the registry."""
    for n in NETWORKS.values():
        print(f"{n.name:12} {n.title}")
        print(f"{'':12} source {n.source} · licence {n.licence} · metric {n.metric}")
        if missing := n.missing():
            print(f"{'':12} not installed: {' '.join(missing)}")


def build(args: argparse.Namespace) -> None:
    """Build, and quantize; the files are named on stdout, the steps on stderr."""
    network = find_network(args.name)
    out: Path = args.out or Path("build") / network.name
    if args.quantizer is None and (args.weight_bits, args.act_bits) != (8, 8):
        raise UserError("--weight-bits and --act-bits say how to quantize: add --quantizer lowbit")
    quantize = None
    if args.quantizer:
        from models.quantizers.registry import find_quantizer, label

        quantize = find_quantizer(args.quantizer, args.weight_bits, args.act_bits)
    print(f"building {network.name}: {network.title}", file=sys.stderr)
    built = network.build(out, args.seed)
    from models.evaluate import (
        measure,
        row,  # slow to import
    )

    models = [built.float_model]
    if quantize:
        target = out / f"{network.name}.{label(args.quantizer, args.weight_bits, args.act_bits)}.onnx"
        print(f"quantizing with {args.quantizer}", file=sys.stderr)
        quantize(built.float_model, target, built.calib)
        models.append(target)
    print("measuring", file=sys.stderr)
    for path, scores in zip(models, measure(network, built, models), strict=True):
        print(row(network, str(path), scores))
    print(f"calibration samples: {built.calib}")
    print(f"test samples: {built.test}")


def rewrite(args: argparse.Namespace) -> None:
    """Print the table, a row as soon as it is known."""
    from models.tables.rewriting import (
        HEADER,
        row,  # slow to import
    )

    networks = [find_network(name) for name in args.names]
    print(HEADER)
    for network in networks:
        print(f"building, quantizing and rewriting {network.name}", file=sys.stderr)
        folder: Path = args.out or Path("build") / network.name
        print(row(network, folder, args.quantizer, args.weight_bits, args.act_bits, args.budget, args.seed), flush=True)


def main() -> int:
    """Command line."""
    args = parse()
    verbs: dict[str, Callable[[argparse.Namespace], None]] = {"list": show, "build": build, "rewrite": rewrite}
    return exit_code(lambda: verbs[args.verb](args))


if __name__ == "__main__":
    sys.exit(main())
