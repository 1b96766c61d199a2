"""The papers' tables on networks whose weights are fitted again: `python -m models.tables NAME --reconstruct`.

Copies come first and the fit after them, which is the paper's order: readers' copies get weights of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.tables import papers
from models.tables.bench import Bench, Setting, Table, gains, spread, tasks
from models.tables.findings import STEPS, error
from models.tables.metrics import METRICS
from models.tables.recipes import Fit, Recipe, fits
from onnx_ocs.errors import UserError

__all__ = ["REFITTED", "Spec", "refitted"]

PLAIN, FITTED = Recipe(), Recipe(fitted=True)
OCS, PLUS = Recipe("OCS", fitted=True), Recipe("OCS+", fitted=True)
FREE, SPENT = Recipe(budget=0.0, fitted=True), Recipe(budget=0.25, fitted=True)
BRANCHES = Recipe(branches="linear"), Recipe(branches="nonlinear")
LEAST_TIME = 0.02  # more time than this is a price; less is noise

WHAT = """`reconstructed`: weights, scales and biases fitted again in closed form, without labels, on the calibration
samples (`--passes reconstruct`). `OCS` halves channels, `OCS+` moves what is clipped into copies, both by the paper's
rule (`--select mass`: the same share k in every tensor), and then the weights are fitted, those of the copies too;
`early` where the producer makes the copies, as the paper does. `planned`: steps and copies chosen within so many MACs
more, `steps planned` without any (`--budget 0.25`, `--budget 0`). `gain` is against the reconstructed file of the same
seed. MACs and time are ratios to the quantized file's; time is that of one sample in onnxruntime on one thread, both
models in turns; CPU: seconds that the rewrite took."""
APART = """the paper's networks are ImageNet's, re-optimised by NWQ, which trains weights and steps by gradients over
20,000 iterations; here weights are fitted in closed form in seconds, steps stay as the quantizer chose them but in rows
`planned` and `refined`, first and last layers have 8 bits, and the networks are small."""

DETECTORS = """the paper's detectors find the objects of MS COCO, are re-optimised by NWQ, and their heads stay in
float; here weights are fitted in closed form in seconds, heads are quantized, and it is no mean average precision that
is measured."""


@dataclass(frozen=True)
class Spec:
    """A table: which networks at which bits, and which rows.

    Attributes:
        title: one line.
        settings: one part of the table each.
        recipes: the rows.
        paper: the paper's figures.
        base: what gains are counted from.
        given: how a given network is quantized, where that is another.
        apart: why the paper's figures are not comparable.
        drawn: what the seed decides.
    """

    title: str
    settings: tuple[Setting, ...]
    recipes: tuple[Recipe, ...]
    paper: str = ""
    base: Recipe = FITTED
    given: tuple[Setting, ...] = ()
    apart: str = APART
    drawn: str = "weights, order and split of the data"


def _bits(*pairs: tuple[int, int], network: str = "digits") -> tuple[Setting, ...]:
    return tuple(Setting(network, w, a) for w, a in pairs)


def _plus(*ratios: float, early: bool = False) -> tuple[Recipe, ...]:
    return tuple(replace(PLUS, ratio=k, early=early) for k in ratios)


_HALVED = tuple(replace(r, ratio=k) for k in (0.1, 0.5) for r in (OCS, PLUS))
REFITTED: Mapping[str, Spec] = {
    "bits": Spec(
        "OCS+ at 4, 3 and 2 bits on reconstructed weights (OCS+, table 2)",
        _bits((4, 4), (3, 3), (2, 2)),
        (PLAIN, Recipe("OCS+", 0.5), FITTED, *_plus(0.5), SPENT),
        papers.BITS,
    ),
    "ocs": Spec(
        "OCS against OCS+ on reconstructed weights (OCS+, tables 5 and 6)",
        _bits((2, 2), (4, 2), (8, 2)),
        (PLAIN, FITTED, *(replace(r, early=True) for r in _HALVED), *_HALVED),
        papers.OCS,
        given=_bits((2, 2)),
    ),
    "k": Spec(
        "Gain against the ratio k on reconstructed weights (OCS+, table 9)",
        _bits((2, 2), (8, 2)),
        (PLAIN, FITTED, *_plus(*STEPS)),
        papers.RATIO,
        given=_bits((2, 2)),
    ),
    "cost": Spec(
        "What it costs at k = 0.2 on reconstructed weights (OCS+, table 7)",
        _bits((4, 4), (8, 8)),
        (PLAIN, FITTED, replace(OCS, ratio=0.2, early=True), *_plus(0.2, early=True), *_plus(0.2)),
        papers.COST,
        given=_bits((4, 4)),
    ),
    "saved": Spec(
        "Extra channels, or saved outliers, on reconstructed weights (OCS+, table 8)",
        tuple(s for bits in ((2, 2), (4, 2), (8, 2)) for s in (*_bits(bits), *_bits(bits, network="digits-wide"))),
        (PLAIN, FITTED, *_plus(0.5, early=True)),
        papers.SAVED,
    ),
    "gelu": Spec(
        "Networks with GELU on reconstructed weights (OCS+, table 3)",
        (
            *_bits((4, 4), (8, 3), network="convgelu"),
            *_bits((4, 4), (8, 3), network="vit"),
            *_bits((8, 4), network="minilm"),
        ),
        (PLAIN, Recipe("OCS+", 0.5), FITTED, *_plus(0.5), SPENT),
        papers.GELU,
    ),
    "detect": Spec(
        "Detection on reconstructed weights (OCS+, table 4)",
        (*_bits((8, 5), (8, 4), network="ppocr_pages"), Setting("ppocr_pages", quantizer="ort-percentile")),
        (PLAIN, Recipe("OCS+", 0.5), FITTED, *_plus(0.5), SPENT),
        papers.DETECTION,
        given=(Setting(quantizer="ort-minmax"), Setting()),
        apart=DETECTORS,
        drawn="what is on the pages",
    ),
    "nbc": Spec(
        "Branches alone, behind reconstruction, and behind both",
        (Setting(quantizer="ort-percentile"), *_bits((4, 4), (8, 2), (2, 2))),
        (
            PLAIN,
            *BRANCHES,
            FITTED,
            *(replace(b, fitted=True) for b in BRANCHES),
            FREE,
            *(replace(b, fitted=True, budget=0.0) for b in BRANCHES),
        ),
        given=_bits((8, 2)),
    ),
}


def refitted(
    name: str, bench: Bench, network: str = "", refine: int = 0, without: Sequence[str] = (), bits: Sequence[str] = ()
) -> Table:
    """Make a table.

    Args:
        name: one of `REFITTED`.
        bench: networks and seeds.
        network: the one network that is asked for, in place of the table's; "" for those of the table.
        refine: steps of a refinement with gradients in two rows more; 0 for none.
        without: rows whose names have one of these are left out, but for the first and those that others are held
            against.
        bits: such as "W4A4": the table's parts with these alone; none for all.

    Raises:
        UserError: the table has none of these bits.
    """
    spec = REFITTED[name]
    table = Table(spec.title, WHAT, paper=spec.paper, apart=spec.apart if spec.paper else "")
    table.drawn = "which calibration samples are drawn" if network else spec.drawn
    settings = spec.settings
    if network:
        settings = tuple(dict.fromkeys(replace(s, network=network) for s in spec.given or spec.settings))
    if unknown := sorted(set(bits) - {s.bits for s in settings}):
        raise UserError(f"--bits {unknown[0]}: choose from {', '.join(dict.fromkeys(s.bits for s in settings))}")
    settings = tuple(s for s in settings if not bits or s.bits in bits)
    kept = (PLAIN, spec.base)
    recipes = [r for r in spec.recipes if r in kept or not any(part in r.title for part in without)]
    if refine:
        recipes += [replace(r, refined=refine) for r in (FITTED, *_plus(0.5))]
    for setting in settings:
        found = fits(bench, setting, recipes)
        reference = spread(tasks(bench.float_scores(setting.network)))
        figure = METRICS[bench.network(setting.network).metric].task
        table.parts.append((f"{_title(setting, bench)} (float: {reference} %)", *_part(found, spec.base, figure)))
        table.findings += _findings(f"{setting.network}, {_bits_of(setting)}", found, spec.base)
    return table


def _bits_of(setting: Setting) -> str:
    return setting.bits if setting.quantizer == "lowbit" else f"{setting.quantizer}, {setting.bits}"


def _title(setting: Setting, bench: Bench) -> str:
    return f"{setting.network} ({bench.network(setting.network).title}), {_bits_of(setting)}"


def _part(
    found: Mapping[Recipe, Sequence[Fit]], base: Recipe, figure: str
) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Header and rows of one setting."""
    header = ["", f"{figure}, %", "gain", "SQNR, dB", "MACs", "parameters", "time", "CPU, s"]
    rows: list[Sequence[str]] = []
    for recipe, those in found.items():
        scores = [f.scores for f in those]
        gain = "" if recipe == base else spread(gains(scores, [f.scores for f in found[base]]), sign="+")
        rows.append(
            [
                recipe.title,
                spread(tasks(scores)),
                gain,
                spread(_decibels(those)),
                f"x {np.mean([f.macs for f in those]):.2f}",
                f"x {np.mean([f.params for f in those]):.2f}",
                f"x {spread([f.latency for f in those])}",
                f"{np.mean([f.seconds for f in those]):.0f}" if recipe != PLAIN else "",
            ]
        )
    return header, rows


def _decibels(those: Sequence[Fit]) -> list[float]:
    return [np.inf if f.sqnr_db is None else f.sqnr_db for f in those]


def _findings(where: str, found: Mapping[Recipe, Sequence[Fit]], base: Recipe) -> list[str]:
    """What each further step brings to the reconstructed file, and what a tenth more time is worth in it."""
    lines = []
    for recipe, those in found.items():
        if recipe in (PLAIN, base):
            continue
        on = found[base if recipe.fitted else PLAIN]
        points = gains([f.scores for f in those], [f.scores for f in on])
        decibels = np.subtract(_decibels(those), _decibels(on))
        time = float(np.mean([f.latency for f in those]) - np.mean([f.latency for f in on]))
        sure = abs(np.mean(points)) > 2 * error(points) or abs(np.mean(decibels)) > 2 * error(list(decibels))
        price = "at no time" if time < LEAST_TIME else f"for {100 * time:+.0f} % time"
        per = "" if time < LEAST_TIME else f", {np.mean(decibels) / time / 10:+.2f} dB per tenth of the time"
        lines.append(
            f"{where}: `{recipe.title}` on `{(base if recipe.fitted else PLAIN).title}`: {np.mean(points):+.2f} points"
            f" (standard error {error(points):.2f}), {np.mean(decibels):+.2f} dB {price}{per}"
            f"{'' if sure else '; within two standard errors'}."
        )
    return lines
