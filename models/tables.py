"""The papers' tables on networks that can be had here: `python -m models.tables NAME [--seeds N]`.

    ocs      OCS against OCS+ (OCS+, tables 5 and 6)          gelu    networks with GELU (table 3's shape)
    k        gain against the ratio k (table 9)               saved   extra channels or saved outliers (table 8)
    cost     time, parameters, FLOPs*bit (table 7)            nbc     nonlinear, linear and no compensation
    bits     4, 3 and 2 bits (table 2's shape)

Prints a markdown table and writes it to models/results/NAME.md.  Networks are built at the first run and kept in
build/tables; one takes half a minute to a minute.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from models import price
from models.bench import (
    APART,
    DIGITS,
    RULE,
    Bench,
    Setting,
    Table,
    by_setting,
    column,
    gains,
    plain,
    planned,
    spread,
    tasks,
    with_passes,
)
from models.metrics import Scores
from onnx_ocs.errors import UserError
from onnx_ocs.passes import Compensate, Split, Translate
from onnx_ocs.planning import PlanOptions

__all__ = ["TABLES", "main"]

RESULTS = Path(__file__).resolve().parent / "results"
Scored = Mapping[str, Sequence[Scores]]


def said(what: str, expected: bool) -> str:
    """A finding, and whether it is what the paper says."""
    return f"{what}: {'as the paper says' if expected else 'NOT as the paper says'}."


def error(values: Sequence[float]) -> float:
    """Standard error of the mean over the seeds."""
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def gained(scores: Scored, name: str) -> float:
    """Mean gain over the plain model, in points."""
    return float(np.mean(gains(scores[name], scores["plain"])))


def decibels(scores: Scored, name: str) -> float:
    """Mean gain over the plain model, in dB."""
    pairs = zip(scores[name], scores["plain"], strict=True)
    return float(np.mean([a.sqnr_db - b.sqnr_db for a, b in pairs if a.sqnr_db is not None and b.sqnr_db is not None]))


def ocs(bench: Bench) -> Table:
    """OCS against OCS+."""
    table = Table("OCS against OCS+ (OCS+, tables 5 and 6)", f"Of {DIGITS}. {RULE}")
    table.what += (
        " The paper expects OCS at k = 0.5 at or below the plain model (no more than a standard error above), and "
    )
    table.what += "OCS+ above it. W4A2 is there because 2-bit weights without reconstruction destroy this network."
    table.paper = """| W2A2, top-1 | ResNet-50 | MobileNet-V2 | MnasNet-2.0 |
|---|---|---|---|
| NWQ | 57.18 | 26.42 | 41.17 |
| OCS 0.1 | 56.31 | 26.11 | 41.12 |
| OCS+ 0.1 | 57.76 | 27.74 | 43.65 |
| OCS 0.5 | 52.82 | 25.74 | 37.87 |
| OCS+ 0.5 | 60.83 | 39.15 | 50.83 |

ResNet-50, k = 0.05: OCS 75.26 (W8A4), 75.22 (W4A4); OCS+ 75.38 (W4A4)."""
    table.apart = APART
    modes = {"early": "Where the producer makes the copies (conv, ReLU, conv: the paper's structures)"}
    modes["auto"] = "All tensors that a layer reads, residual sums too"
    for mode, caption in modes.items():
        rewrites = {"plain": plain}
        for k in (0.05, 0.1, 0.5):
            rewrites[f"OCS, k = {k}"] = with_passes(Split(k, mode))  # type: ignore[arg-type]
            rewrites[f"OCS+, k = {k}"] = with_passes(Translate(k, 1, mode))  # type: ignore[arg-type]
        columns = {}
        for weight_bits in (2, 4, 8):
            setting = Setting(weight_bits=weight_bits, act_bits=2)
            scores = bench.scores(setting, rewrites)
            columns[setting.bits] = column(scores, "plain")
            for name in ("OCS", "OCS+"):
                found = gains(scores[f"{name}, k = 0.5"], scores["plain"])
                gain, db = float(np.mean(found)), decibels(scores, f"{name}, k = 0.5")
                where = "all tensors" if mode == "auto" else "the paper's structures"
                what = (
                    f"{setting.bits}, {where}, k = 0.5: {name} {gain:+.2f} points (standard error {error(found):.2f}), "
                )
                above = gain > error(found)
                table.findings.append(said(f"{what}{db:+.2f} dB", above if name == "OCS+" else not above))
        table.parts.append((caption, *by_setting(columns)))
    return table


def ratios(bench: Bench) -> Table:
    """Gain against k."""
    table = Table("Gain against the ratio k (OCS+, table 9)", f"Of {DIGITS}. {RULE}")
    table.what += " `planned`: `rewrite --ratio k` with calibration data: steps and copies of the whole model."
    table.what += " The paper expects accuracy to grow with k (here: no step down by more than a standard error)."
    table.paper = """| W2A2, top-1 | MobileNet-V2 | ResNet-18 | RegNet-600 | MnasNet-2.0 |
|---|---|---|---|---|
| k = 0 | 26.42 | 59.14 | 48.49 | 41.17 |
| k = 0.3 | 35.79 | 61.23 | 53.17 | 48.20 |
| k = 0.5 | 39.15 | 61.46 | 54.73 | 50.83 |
| k = 0.7 | 39.77 | 61.88 | 55.86 | 53.32 |
| k = 1 | 41.49 | 62.20 | 57.31 | 54.38 |"""
    table.apart = APART
    steps = (0.3, 0.5, 0.7, 1.0)
    rewrites = {"plain": plain} | {f"k = {k}": with_passes(Translate(k)) for k in steps}
    rewrites |= {f"k = {k}, planned": planned(PlanOptions(budget=None, ratio=k)) for k in steps}
    columns = {}
    for weight_bits in (2, 4, 8):
        setting = Setting(weight_bits=weight_bits, act_bits=2)
        scores = bench.scores(setting, rewrites)
        columns[setting.bits] = column(scores, "plain")
        for kind, label in (("", "the paper's rule"), (", planned", "planned")):
            found = [tasks(scores[name]) for name in ("plain", *(f"k = {k}{kind}" for k in steps))]
            changes = [np.subtract(b, a) for a, b in pairwise(found)]
            row = ", ".join(f"{np.mean(f):.2f}" for f in found)
            grows = all(np.mean(c) >= -error(c) for c in changes)
            table.findings.append(said(f"{setting.bits}, {label}: {row} % with k = 0, {str(steps)[1:-1]}", grows))
    table.parts.append(("", *by_setting(columns)))
    return table


def bits(bench: Bench) -> Table:
    """Several widths."""
    table = Table("With and without OCS+ at 4, 3 and 2 bits (OCS+, table 2's shape)", f"Of {DIGITS}. {RULE}")
    table.what += " `planned`: `rewrite --ratio 0.5` with calibration data: steps and copies of the whole model."
    table.paper = """| top-1 | W/A | MobileNet-V2 | ResNet-18 | RegNet-600 | MnasNet-2.0 |
|---|---|---|---|---|---|
| float | 32/32 | 72.49 | 71.08 | 73.71 | 76.68 |
| NWQ | 4/4 | 69.14 | 69.85 | 71.92 | 74.60 |
| OCS+ 0.5 on NWQ | 4/4 | 70.19 ± 0.14 | 70.10 ± 0.05 | 72.34 ± 0.12 | 75.14 ± 0.24 |
| NWQ | 3/3 | 61.24 | 67.58 | 67.38 | 68.85 |
| OCS+ 0.5 on NWQ | 3/3 | 64.13 ± 0.16 | 68.20 ± 0.06 | 68.80 ± 0.11 | 71.72 ± 0.22 |
| NWQ | 2/2 | 26.42 | 59.14 | 48.49 | 41.17 |
| OCS+ 0.5 on NWQ | 2/2 | 39.15 ± 1.68 | 61.46 ± 0.23 | 54.73 ± 0.27 | 50.83 ± 1.25 |"""
    table.apart = APART
    rewrites = {"plain": plain, "OCS+, k = 0.5": with_passes(Translate(0.5))}
    rewrites["OCS+, k = 0.5, planned"] = planned(PlanOptions(budget=None, ratio=0.5))
    columns = {}
    for width in (4, 3, 2):
        setting = Setting(weight_bits=width, act_bits=width)
        scores = bench.scores(setting, rewrites)
        columns[setting.bits] = column(scores, "plain")
        what = f"{setting.bits}: OCS+ {gained(scores, 'OCS+, k = 0.5'):+.2f} points, planned "
        what += f"{gained(scores, 'OCS+, k = 0.5, planned'):+.2f}"
        table.findings.append(said(what, gained(scores, "OCS+, k = 0.5") > 0))
    table.what += f" Float: {spread(tasks(bench.float_scores('digits')))} %."
    table.parts.append(("", *by_setting(columns)))
    return table


def gelu(bench: Bench) -> Table:
    """Networks with GELU."""
    table = Table(
        "Networks with GELU (OCS+, table 3's shape)", "Of five convolutions with GELU (`convgelu`) and a small "
    )
    table.what += (
        f"vision transformer (`vit`; `python -m models list`), 450 test images a seed. {RULE} Behind a GELU the "
    )
    table.what += "copies are made in float, exactly; the paper's f(y - X_clip) is an approximation."
    table.paper = """| W4A4, top-1 | ViT-S | ViT-B | DeiT-S | DeiT-B |
|---|---|---|---|---|
| float | 81.39 | 84.54 | 79.80 | 81.80 |
| OAS | 72.88 | 76.59 | 76.00 | 78.83 |
| OCS+ 0.5 on OAS | 74.91 | 78.45 | 77.21 | 79.84 |"""
    table.apart = (
        "the paper's networks are ImageNet's, re-optimised with OAS; here nothing is, and the networks are small."
    )
    rewrites = {"plain": plain, "OCS, k = 0.5": with_passes(Split(0.5)), "OCS+, k = 0.5": with_passes(Translate(0.5))}
    rewrites["OCS+, k = 0.5, planned"] = planned(PlanOptions(budget=None, ratio=0.5))
    for network in ("convgelu", "vit"):
        columns = {}
        for weight_bits, act_bits in ((4, 4), (8, 4), (8, 3)):
            setting = Setting(network, weight_bits, act_bits)
            scores = bench.scores(setting, rewrites)
            columns[setting.bits] = column(scores, "plain")
            gain, better = (gained(scores, f"OCS+, k = 0.5{kind}") for kind in ("", ", planned"))
            what = f"{network}, {setting.bits}: OCS+ {gain:+.2f} points, planned {better:+.2f}"
            table.findings.append(said(what, gain > 0))
        caption = f"{network} (float: {spread(tasks(bench.float_scores(network)))} %)"
        table.parts.append((caption, *by_setting(columns)))
    return table


def saved(bench: Bench) -> Table:
    """Extra channels or saved outliers."""
    table = Table(
        "Extra channels, or saved outliers? (OCS+, table 8's question)", f"Of {DIGITS}, and of the same network "
    )
    table.what += (
        "trained with half as many channels more between the layers of its blocks (`digits-wide`). OCS+ widens "
    )
    table.what += f"what the producer can (conv, ReLU, conv). {RULE}"
    table.paper = """| top-1 | W/A | MobileNet-V2 | ResNet-18 | RegNet-600 | MnasNet-2.0 |
|---|---|---|---|---|---|
| channels increased, trained | 4/2 | 43.24 | 62.09 | 60.20 | 53.23 |
| channels increased, trained | 2/2 | 32.02 | 60.64 | 52.73 | 47.24 |
| OCS+ 0.5 on the original | 2/2 | 39.15 | 61.46 | 54.73 | 50.80 |"""
    table.apart = APART
    rows: list[Sequence[str]] = []
    widths = ((4, 2), (2, 2), (8, 2))
    names = {"digits": "original", "digits-wide": "channels increased, trained"}
    cells = {n: [spread(tasks(bench.float_scores(n)))] for n in names}
    cells["ocs"] = [""]
    for weight_bits, act_bits in widths:
        setting = Setting("digits", weight_bits, act_bits)
        rewrites = {"plain": plain, "ocs": with_passes(Translate(0.5, 1, "early"))}
        own = bench.scores(setting, rewrites)
        more = bench.scores(replace(setting, network="digits-wide"), {"plain": plain})
        for name, found in (("digits", own["plain"]), ("digits-wide", more["plain"]), ("ocs", own["ocs"])):
            cells[name].append(spread(tasks(found)))
        difference = gains(own["ocs"], more["plain"])
        what = f"{setting.bits}: OCS+ on the original {spread(difference, sign='+')} points against the wider network"
        table.findings.append(said(what, float(np.mean(difference)) > 0))
    rows = [(title, *cells[name]) for name, title in names.items()]
    rows.append(("OCS+, k = 0.5, on the original", *cells["ocs"]))
    table.parts.append(("Top-1, %", ["", "float", *(f"W{w}A{a}" for w, a in widths)], rows))
    return table


def nbc(bench: Bench) -> Table:
    """Compensation, on several quantizers."""
    table = Table(
        "Nonlinear, linear and no compensation", f"Of {DIGITS}. `--passes compensate`, linear with `--nbc-linear`. "
    )
    table.what += (
        "Branches are fitted and chosen on 256 calibration images; `gain` is the difference to no compensation "
    )
    table.what += "of the same seed."
    table.apart = "the paper's abstract gives no figure for networks of this kind."
    rewrites = {"plain": plain, "linear": with_passes(Compensate(linear=True)), "nonlinear": with_passes(Compensate())}
    settings = {
        "onnxruntime, min-max, W8A8": Setting(quantizer="ort-minmax"),
        "onnxruntime, percentile, W8A8": Setting(quantizer="ort-percentile"),
        "onnxruntime, entropy, W8A8": Setting(quantizer="ort-entropy"),
        "least squares, W4A4": Setting(weight_bits=4, act_bits=4),
        "least squares, W8A2": Setting(weight_bits=8, act_bits=2),
        "least squares, W2A2": Setting(weight_bits=2, act_bits=2),
    }
    header = ["quantizer"] + [f"{v}: {c}" for v in ("none", "linear", "NBC") for c in ("top-1, %", "gain", "SQNR, dB")]
    rows: list[Sequence[str]] = []
    for name, setting in settings.items():
        scores = bench.scores(setting, rewrites)
        found = column(scores, "plain")
        rows.append([name, *(c for v in rewrites for c in found[v])])
        gain, line = (
            f"{gained(scores, v):+.2f} points, {decibels(scores, v):+.2f} dB" for v in ("nonlinear", "linear")
        )
        table.findings.append(f"{name}: NBC {gain}; linear {line}.")
    header.remove("none: gain")
    table.parts.append(("", header, [[c for k, c in enumerate(r) if k != 2] for r in rows]))
    return table


TABLES: dict[str, Callable[[Bench], Table]] = {
    "ocs": ocs, "k": ratios, "cost": price.table, "bits": bits, "gelu": gelu, "saved": saved, "nbc": nbc,
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Command line: 0 done, 1 the user's mistake in one line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m models.tables", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=TABLES, metavar="NAME")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="how many, from 0; default 5")
    parser.add_argument("--folder", type=Path, default=Path("build/tables"), help="where networks are kept")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results; default: models/results")
    args = parser.parse_args(argv)
    bench = Bench(args.folder, args.seeds)
    seeds = "" if args.seeds == parser.get_default("seeds") else f" --seeds {args.seeds}"
    try:
        text = TABLES[args.name](bench).markdown(f"python -m models.tables {args.name}{seeds}", bench)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{args.name}.md").write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
