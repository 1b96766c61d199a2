"""The papers' tables on networks that can be had here: `python -m models.tables NAME [--seeds N]`.

    ocs      OCS against OCS+ (OCS+, tables 5 and 6)          gelu    networks with GELU (table 3's shape)
    k        gain against the ratio k (table 9)               saved   extra channels or saved outliers (table 8)
    cost     time, parameters, FLOPs*bit (table 7)            nbc     nonlinear, linear and no compensation
    bits     4, 3 and 2 bits (table 2's shape)                trained ocs and k after reconstruction (tables 6, 9)
    detect   a text detector (table 4's question); given one: --metric objects

Prints a markdown table and writes it to models/results/NAME.md.  Networks are built at the first run and kept in
build/tables; one takes half a minute to a minute.  With `--reconstruct` the weights are fitted again behind the copies
(models/results/NAME_reconstructed.md); rows that are there already are not made again.  `--given FOLDER` does that to
a network that is not part of this repository (`models.tables.given`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from models.commandline import command_line, exit_code
from models.networks.zoo import find_network
from models.tables import papers, price
from models.tables.bench import (
    APART,
    DIGITS,
    RULE,
    UNTRAINED,
    Bench,
    Rewrite,
    Setting,
    Table,
    by_setting,
    column,
    gains,
    plain,
    planned,
    reconstructed,
    spread,
    tasks,
    with_passes,
)
from models.tables.findings import STEPS, above, gained, growing, halves_and_copies, said
from models.tables.given import Given, name_in
from models.tables.metrics import METRICS
from models.tables.refitted import REFITTED, refitted
from onnx_ocs import PlanOptions
from onnx_ocs.errors import UserError
from onnx_ocs.passes import Compensate, Split, Translate

__all__ = ["TABLES", "main"]

RESULTS = Path(__file__).resolve().parents[1] / "results"
LOW = Setting(weight_bits=2, act_bits=2)
TRAINED = replace(LOW, quantizer="reconstructed")
EXPECTED = """`paper's structures`: where the producer makes the copies (conv, ReLU, conv; `--mode early`); `all
tensors`: all that a layer reads, residual sums too. The paper expects OCS at k = 0.5 at or below the plain model (here:
no more than a standard error above it), and OCS+ above it."""
PAGES = f"""Of the text detector of PP-OCR v4 (`ppocr_det`, {find_network("ppocr_det").source}) on 48 rendered
pages a seed, 320 x 480, with about 220 lines. F-measure: a line is found where boxes overlap by half
(models/detection.py). `gain` is the difference to the plain model of the same seed. `OCS` and `OCS+` choose channels by
the paper's rule (`--select mass`) and leave steps as they are. Ranges, channels and plans come from 8 other pages."""
PLANNED = "`planned`: `rewrite --ratio K` with calibration data, which chooses steps and copies of the whole model."


def ocs(bench: Bench) -> Table:
    """OCS against OCS+."""
    table = Table("OCS against OCS+ (OCS+, tables 5 and 6)", f"Of {DIGITS}. {RULE} {UNTRAINED}")
    table.what += f" {EXPECTED} W2A2 after reconstruction: `python -m models.tables trained`."
    for setting in (LOW, Setting(weight_bits=4, act_bits=2), Setting(act_bits=2)):
        both(table, bench, setting)
    table.paper, table.apart = papers.OCS, APART
    return table


def both(table: Table, bench: Bench, setting: Setting) -> None:
    """OCS and OCS+ at three ratios, where the producer makes the copies and everywhere."""
    columns = {}
    for where, mode in (("paper's structures", "early"), ("all tensors", "auto")):
        rewrites: dict[str, Rewrite] = {"plain": plain}
        for k in (0.05, 0.1, 0.5):
            rewrites[f"OCS, k = {k}"] = with_passes(Split(k, mode))  # type: ignore[arg-type]
            rewrites[f"OCS+, k = {k}"] = with_passes(Translate(k, 1, mode))  # type: ignore[arg-type]
        scores = bench.scores(setting, rewrites)
        columns[where] = column(scores, "plain")
        table.findings += halves_and_copies(f"{setting.bits}, {where}", scores)
    table.parts.append((setting.bits, *by_setting(columns)))


def trained(bench: Bench) -> Table:
    """The same after reconstruction, as the paper's networks are."""
    table = Table("OCS against OCS+ on a reconstructed W2A2 network (OCS+, tables 6 and 9)", f"Of {DIGITS}. {RULE}")
    table.what += f""" Weights, biases and activation steps were trained on these images, without labels, to answer as
the float network does (onnx_ocs/reconstruction). {EXPECTED} It expects accuracy to grow with k."""
    both(table, bench, TRAINED)
    rewrites = {"plain": plain} | {f"OCS+, k = {k}": with_passes(Translate(k)) for k in STEPS}
    scores = bench.scores(TRAINED, rewrites)
    table.parts.append((f"{TRAINED.bits}, all tensors, against k", *by_setting({"W2A2": column(scores, "plain")})))
    table.findings.append(growing(TRAINED.bits, scores, "OCS+, "))
    rewrites = {"plain": reconstructed(plain), "OCS, k = 0.5": reconstructed(with_passes(Split(0.5, "early")))}
    rewrites["OCS+, k = 0.5"] = reconstructed(with_passes(Translate(0.5, 1, "early")))
    scores = bench.scores(LOW, rewrites)
    caption = "W2A2, first rewritten, then reconstructed (the paper's order and structures; copies' weights train too)"
    table.parts.append((caption, *by_setting({"W2A2": column(scores, "plain")})))
    table.findings += halves_and_copies("W2A2, rewritten, then reconstructed", scores)
    table.paper, table.apart = f"{papers.OCS}\n\n{papers.RATIO}", APART
    return table


def ratios(bench: Bench) -> Table:
    """Gain against k."""
    table = Table("Gain against the ratio k (OCS+, table 9)", f"Of {DIGITS}. {RULE} {UNTRAINED}")
    table.what += " The paper expects accuracy to grow with k (here: no step down by more than a standard error)."
    rewrites = {"plain": plain} | {f"k = {k}": with_passes(Translate(k)) for k in STEPS}
    columns = {}
    for setting in (LOW, Setting(weight_bits=4, act_bits=2), Setting(act_bits=2)):
        scores = bench.scores(setting, rewrites)
        columns[setting.bits] = column(scores, "plain")
        table.findings.append(growing(setting.bits, scores))
    table.parts.append(("", *by_setting(columns)))
    table.paper, table.apart = papers.RATIO, APART
    return table


def bits(bench: Bench) -> Table:
    """Several widths."""
    table = Table(
        "With and without OCS+ at 4, 3 and 2 bits (OCS+, table 2's shape)", f"Of {DIGITS}. {RULE} {UNTRAINED}"
    )
    table.what += f" {PLANNED} Float: {spread(tasks(bench.float_scores('digits')))} %."
    rewrites = {"plain": plain, "OCS+, k = 0.5": with_passes(Translate(0.5))}
    rewrites["OCS+, k = 0.5, planned"] = planned(PlanOptions(budget=None, ratio=0.5, effort="full"))
    columns = {}
    for setting in (Setting(weight_bits=w, act_bits=w) for w in (4, 3, 2)):
        scores = bench.scores(setting, rewrites)
        columns[setting.bits] = column(scores, "plain")
        what = f"{setting.bits}: OCS+ {gained(scores, 'OCS+, k = 0.5')}"
        table.findings.append(said(what, above(scores, "OCS+, k = 0.5")))
    table.parts.append(("", *by_setting(columns)))
    table.paper, table.apart = papers.BITS, APART
    return table


def gelu(bench: Bench) -> Table:
    """Networks with GELU."""
    table = Table(
        "Networks with GELU (OCS+, table 3's shape)", "Of five convolutions with GELU (`convgelu`) and a small"
    )
    table.what += f""" vision transformer (`vit`; `python -m models list`), 450 test images a seed. {RULE} {PLANNED}
Behind a GELU the copies are made in float, exactly; the paper's f(y - X_clip) is an approximation."""
    rewrites = {"plain": plain, "OCS, k = 0.5": with_passes(Split(0.5)), "OCS+, k = 0.5": with_passes(Translate(0.5))}
    rewrites["OCS+, k = 0.5, planned"] = planned(PlanOptions(budget=None, ratio=0.5, effort="full"))
    for network in ("convgelu", "vit"):
        columns = {}
        for weight_bits, act_bits in ((4, 4), (8, 4), (8, 3)):
            setting = Setting(network, weight_bits, act_bits)
            scores = bench.scores(setting, rewrites)
            columns[setting.bits] = column(scores, "plain")
            what = f"{network}, {setting.bits}: OCS+ {gained(scores, 'OCS+, k = 0.5')}"
            table.findings.append(said(what, above(scores, "OCS+, k = 0.5")))
        caption = f"{network} (float: {spread(tasks(bench.float_scores(network)))} %)"
        table.parts.append((caption, *by_setting(columns)))
    table.paper = papers.GELU
    table.apart = (
        "the paper's networks are ImageNet's, re-optimised with OAS; here nothing is, and the networks are small."
    )
    return table


def saved(bench: Bench) -> Table:
    """Extra channels or saved outliers."""
    table = Table(
        "Extra channels, or saved outliers? (OCS+, table 8's question)", f"Of {DIGITS}, and of the same network"
    )
    table.what += f""" trained with half as many channels more between the layers of its blocks (`digits-wide`). OCS+
widens what the producer can (conv, ReLU, conv; `--mode early`). {RULE} {UNTRAINED}"""
    settings = (LOW, Setting(weight_bits=4, act_bits=2), Setting(act_bits=2))
    titles = ("original", "channels increased, trained", "OCS+, k = 0.5, on the original")
    rows = [[t, spread(tasks(bench.float_scores(n)))] for t, n in zip(titles, ("digits", "digits-wide"), strict=False)]
    rows.append([titles[2], ""])
    for setting in settings:
        own = bench.scores(setting, {"plain": plain, "ocs": with_passes(Translate(0.5, 1, "early"))})
        more = bench.scores(replace(setting, network="digits-wide"), {"plain": plain})["plain"]
        for row, scores in zip(rows, (own["plain"], more, own["ocs"]), strict=True):
            row.append(spread(tasks(scores)))
        both = {"ocs": own["ocs"], "wider": more}
        what = f"{setting.bits}: OCS+ on the original against the wider network {gained(both, 'ocs', 'wider')}"
        table.findings.append(said(what, float(np.mean(gains(own["ocs"], more))) > 0))
    table.parts.append(("Top-1, %", ["", "float", *(s.bits for s in settings)], rows))
    table.paper, table.apart = papers.SAVED, APART
    return table


def detect(bench: Bench) -> Table:
    """Detection."""
    table = Table("Detection (OCS+, table 4's question)", f"{PAGES} {PLANNED}", drawn="what is on the pages")
    rewrites: dict[str, Rewrite] = {"plain": plain}
    rewrites |= {"OCS, k = 0.5": with_passes(Split(0.5)), "OCS+, k = 0.5": with_passes(Translate(0.5))}
    plans = {"OCS+, k = 0.5, planned": planned(PlanOptions(budget=None, ratio=0.5, effort="full"))}
    settings = {
        "least squares": [Setting("ppocr_det", act_bits=bits) for bits in (5, 4)],
        "onnxruntime": [Setting("ppocr_det", quantizer="ort-percentile")],
    }
    reference = spread(tasks(bench.float_scores("ppocr_det")))
    for quantizer, those in settings.items():
        columns = {}
        for setting in those:
            name = setting.bits if quantizer == "least squares" else setting.quantizer
            scores = bench.scores(setting, rewrites | (plans if quantizer == "least squares" else {}))
            columns[name] = column(scores, "plain")
            table.findings += halves_and_copies(f"{quantizer}, {name}", scores)
        table.parts.append((f"F-measure, {quantizer} (float: {reference} %)", *by_setting(columns, metric="F, %")))
    table.paper = papers.DETECTION
    table.apart = """the paper's detectors find the objects of MS COCO, are re-optimised by NWQ, and their heads stay in
float; this one finds lines of print on rendered pages, nothing is reconstructed, and its head is quantized. One line is
about 0.45 points."""
    return table


def nbc(bench: Bench) -> Table:
    """Compensation, on several quantizers."""
    table = Table("Nonlinear, linear and no compensation", f"Of {DIGITS}. `--passes compensate`, `linear` with")
    table.what += """ `--nbc-linear`. Branches are fitted and chosen on 256 calibration images, with the
float network at hand (`--float`); `gain` is the difference to no compensation of the same seed."""
    rewrites = {"plain": plain, "linear": with_passes(Compensate(linear=True)), "NBC": with_passes(Compensate())}
    settings = {
        "onnxruntime, min-max, W8A8": Setting(quantizer="ort-minmax"),
        "onnxruntime, percentile, W8A8": Setting(quantizer="ort-percentile"),
        "onnxruntime, entropy, W8A8": Setting(quantizer="ort-entropy"),
        "least squares, W4A4": Setting(weight_bits=4, act_bits=4),
        "least squares, W8A2": Setting(act_bits=2),
        "least squares, W2A2": LOW,
    }
    header = ["quantizer", "none: top-1, %", "SQNR, dB"]
    header += [f"{name}: {c}" for name in ("linear", "NBC") for c in ("top-1, %", "gain", "SQNR, dB")]
    rows: list[Sequence[str]] = []
    for name, setting in settings.items():
        scores = bench.scores(setting, rewrites)
        found = column(scores, "plain")
        rows.append([name, found["plain"][0], found["plain"][2], *found["linear"], *found["NBC"]])
        table.findings.append(f"{name}: NBC {gained(scores, 'NBC')}; linear {gained(scores, 'linear')}.")
    table.parts.append(("", header, rows))
    return table


TABLES: dict[str, Callable[[Bench], Table]] = {
    "ocs": ocs, "trained": trained, "k": ratios, "cost": price.table, "bits": bits, "gelu": gelu, "saved": saved,
    "nbc": nbc, "detect": detect,
}  # fmt: skip


def write(args: argparse.Namespace, command: str) -> None:
    """Make a table, write it to a folder and print it.

    Raises:
        UserError: there are no seeds, options that do not go together, or a network cannot be built.
    """
    if args.seeds < 1:
        raise UserError(f"--seeds {args.seeds}: choose at least 1")
    if (args.given or args.refine or args.without or args.bits) and not args.reconstruct:
        raise UserError("--given, --refine, --without and --bits are of the tables with --reconstruct")
    bench, file = Bench(args.folder, args.seeds), args.name
    if args.reconstruct:
        if args.name not in REFITTED:
            raise UserError(f"--reconstruct {args.name}: choose from {', '.join(REFITTED)}")
        network = name_in(args.given) if args.given else ""
        bench = Given(args.folder, args.seeds, args.given, args.metric) if args.given else bench
        file += f"_reconstructed{'_' * bool(network)}{network}"
        table = refitted(args.name, bench, network, args.refine, args.without, args.bits)
    else:
        table = TABLES[args.name](bench)
    text = table.markdown(command, bench)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{file}.md").write_text(text, encoding="utf-8")
    print(text, end="")


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = command_line("models.tables", __doc__)
    parser.add_argument("name", choices=TABLES, metavar="NAME")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="how many, from 0; default 5")
    parser.add_argument("--folder", type=Path, default=Path("build/tables"), help="where networks are kept")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results; default: models/results")
    parser.add_argument("--reconstruct", action="store_true", help="weights are fitted again, behind the copies")
    parser.add_argument("--refine", type=int, default=0, metavar="STEPS", help="refine two rows with gradients")
    parser.add_argument("--without", action="append", default=[], metavar="PART", help="leave out rows so named")
    parser.add_argument("--bits", action="append", default=[], metavar="W4A4", help="the parts at these bits alone")
    parser.add_argument("--given", type=Path, metavar="FOLDER", help="a network that is not part of this repository")
    parser.add_argument("--metric", choices=sorted(METRICS), default="top1", help="of the given network; default top1")
    args = parser.parse_args(argv)
    command = f"python -m models.tables {args.name}{' --reconstruct' * args.reconstruct}"
    command += f" --given {args.given.name}" if args.given else ""
    command += f" --metric {args.metric}" if args.metric != parser.get_default("metric") else ""
    command += f" --refine {args.refine}" if args.refine else ""
    command += "".join(f' --without "{part}"' if " " in part else f" --without {part}" for part in args.without)
    command += "".join(f" --bits {bits}" for bits in args.bits)
    command += "" if args.seeds == parser.get_default("seeds") else f" --seeds {args.seeds}"
    return exit_code(lambda: write(args, command))


if __name__ == "__main__":
    sys.exit(main())
