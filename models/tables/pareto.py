"""Draw what quality costs in time: every row that a table has kept, and which of them nothing beats.

    python -m models.tables.pareto build/tables --network digits --bits w2a2 --out pareto.svg
    python -m models.tables.pareto build/compare --out docs/pareto_resnet20.svg

FOLDER is where `python -m models.tables NAME --reconstruct` keeps its rows (the mean over the seeds is drawn), or the
`--folder` of `python -m models.tables.compare`.  Needs the extra `report`.  Time is that of one sample in onnxruntime,
as a ratio to the quantized file's (in a comparison: to that of onnxruntime's min-max file).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.commandline import command_line, exit_code
from models.picture import THEME
from models.tables.compare import BASE
from models.tables.recipes import Fit
from models.tables.rows import Row
from onnx_ocs.errors import UserError
from onnx_ocs.report.charts import AFTER, BEFORE, INK, figure, svg

__all__ = ["Point", "best", "draw", "of_comparison", "of_tables"]


@dataclass(frozen=True)
class Point:
    """A file: what it is called, its time as a ratio, and SQNR in dB."""

    title: str
    time: float
    sqnr_db: float


def of_tables(folder: Path, network: str, bits: str) -> list[Point]:
    """The rows of one network at some bits, such as "w2a2", each the mean over its seeds."""
    found: dict[str, list[Fit]] = defaultdict(list)
    for path in sorted(folder.glob(f"{network}-[0-9]*/{network}.{bits}.*.json")):
        title = path.name.removesuffix(".json").removeprefix(f"{network}.{bits}.").replace("_", ", ")
        found[title].append(Fit(**json.loads(path.read_text(encoding="utf-8"))))
    return [
        Point(title, float(np.mean([f.latency for f in those])), float(np.mean([f.sqnr_db for f in those])))
        for title, those in found.items()
        if all(f.sqnr_db is not None for f in those)
    ]


def of_comparison(folder: Path) -> list[Point]:
    """The rows of a comparison whose files onnxruntime loads with integer kernels."""
    rows = [Row(**json.loads(p.read_text(encoding="utf-8"))) for p in sorted(folder.glob("*.json"))]
    alone = {r.quantizer: 1.0 if r.quantizer.startswith(BASE) else r.latency for r in rows if not r.chain}
    points = []
    for row in rows:
        base, more = alone.get(row.quantizer), row.latency if row.chain else 1.0
        if base and more and row.sqnr_db is not None:
            title = f"{row.quantizer}, then {row.chain}" if row.chain else row.quantizer
            points.append(Point(title, base * more, row.sqnr_db))
    return points


def best(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats in both, the fastest first."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.time, -p.sqnr_db)):
        if not kept or point.sqnr_db > kept[-1].sqnr_db:
            kept.append(point)
    return kept


def draw(points: Sequence[Point], title: str) -> str:
    """The picture: numbered points, those that nothing beats joined, and the key beside.

    Raises:
        UserError: there are no points.
    """
    if not points:
        raise UserError("no kept row is found: make the table first, with this folder")
    front = best(points)
    ordered = sorted(points, key=lambda p: -p.sqnr_db)
    with figure(1000, max(320, 60 + 17 * len(ordered))) as drawing:
        axes, key = drawing.subplots(1, 2, width_ratios=[5, 4])
        axes.plot([p.time for p in front], [p.sqnr_db for p in front], color=AFTER, linewidth=1.2)
        for number, point in enumerate(ordered, 1):
            colour = AFTER if point in front else BEFORE
            axes.plot(point.time, point.sqnr_db, color=colour, marker="o", markersize=5, linestyle="none")
            axes.annotate(str(number), (point.time, point.sqnr_db), (4, 4), textcoords="offset points", color=INK)
            line = f"{number}  {point.title}: {point.sqnr_db:.1f} dB, x {point.time:.2f}"
            key.text(0, 1 - number / (len(ordered) + 1), line, color=colour, fontsize=9, va="center")
        axes.set_xlabel("time of one sample, ratio")
        axes.set_ylabel("output SQNR (dB)")
        key.set_axis_off()
        drawing.suptitle(title, fontsize=11)
        text = svg(drawing, title, title)
    return text.replace("><", ">" + THEME + "<", 1) + "\n"


def write(args: argparse.Namespace) -> None:
    """Read the rows and write the picture."""
    if (args.folder / "task.txt").exists():
        points, title = of_comparison(args.folder), "quantizers, alone and rewritten"
    elif args.network and args.bits:
        points, title = of_tables(args.folder, args.network, args.bits), f"{args.network}, {args.bits.upper()}"
    else:
        raise UserError(f"{args.folder} is no comparison: say --network and --bits of a table's rows")
    args.out.write_text(draw(points, args.title or title), encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = command_line("models.tables.pareto", __doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--network", default="", metavar="NAME", help="of a table's rows")
    parser.add_argument("--bits", default="", metavar="w4a4", help="of a table's rows")
    parser.add_argument("--title", default="", help="default: made of these")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.svg")
    return exit_code(lambda: write(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
