"""What the tables share: quantized networks of several seeds, rewrites of them, scores with their spread, markdown.

Every choice (ranges, channels, plans, branches) is made on calibration samples; every score is of the test samples,
which nothing else sees.  A rewrite that loses is kept: the tables are there to show it.
"""

from __future__ import annotations

import platform
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from models.evaluate import measure
from models.networks.zoo import Built, Network, find_network
from models.quantizers.registry import find_quantizer, label, read_samples, refined
from models.tables.metrics import Scores
from onnx_ocs import PlanOptions, api
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.passes import Context, Pass, run_passes
from onnx_ocs.report.environment import package_version

__all__ = [
    "APART",
    "DIGITS",
    "RULE",
    "UNTRAINED",
    "Bench",
    "Rewrite",
    "Setting",
    "Subject",
    "Table",
    "by_setting",
    "column",
    "gains",
    "plain",
    "planned",
    "reconstructed",
    "spread",
    "tasks",
    "with_passes",
]

DIGITS = "the digits network (models/README.md; 8 bits at its two ends), 450 test images a seed"
RULE = """`gain` is the difference to the plain model of the same seed. Channels are chosen by the paper's rule
(`--select mass`: the same share in every tensor, most activation in [X_clip, 2 X_clip]), steps stay as they are, and
ranges and channels come from 256 calibration images."""
UNTRAINED = "Nothing is trained or reconstructed, before or after, and without that 2-bit weights destroy this network."
APART = """the paper's networks are ImageNet's, re-optimised by 20,000 iterations of NWQ; here one of 47,530 parameters
tells ten digits apart. One image is 0.22 points."""
PACKAGES = ("onnx-ocs", "onnx", "onnxruntime", "numpy", "torch", "scikit-learn")


@dataclass(frozen=True)
class Setting:
    """A network and how it is quantized."""

    network: str = "digits"
    weight_bits: int = 8
    act_bits: int = 8
    quantizer: str = "lowbit"

    @property
    def bits(self) -> str:
        """Such as W8A2."""
        bits = f"W{self.weight_bits}A{self.act_bits}"
        return f"{bits}, reconstructed" if self.quantizer == "reconstructed" else bits


@dataclass(frozen=True)
class Subject:
    """One quantized network of one seed, and its samples."""

    setting: Setting
    built: Built
    quantized: Path

    def context(self, model: onnx.ModelProto) -> Context:
        """The calibration samples and the float network, for a pass."""
        return Context(open_samples(str(self.built.calib), model), floats=onnx.load(self.built.float_model))


Rewrite = Callable[[Subject], onnx.ModelProto]


def plain(subject: Subject) -> onnx.ModelProto:
    """The quantized model as it is."""
    return onnx.load(subject.quantized)


def with_passes(*passes: Pass) -> Rewrite:
    """Passes in order, by the paper's rule where they choose channels."""

    def rewrite(subject: Subject) -> onnx.ModelProto:
        model = plain(subject)
        return run_passes(model, passes, subject.context(model))[0]

    return rewrite


def reconstructed(rewrite: Rewrite) -> Rewrite:
    """A rewrite, and then the refinement of the whole model (`onnx_ocs.reconstruction.train`)."""

    def trained(subject: Subject) -> onnx.ModelProto:
        model = rewrite(subject)
        return refined(model, subject.built.float_model, read_samples(model, subject.built.calib))

    return trained


def planned(options: PlanOptions, *passes: Pass) -> Rewrite:
    """A plan made on the calibration samples, as `rewrite --select error` makes and keeps it."""

    def rewrite(subject: Subject) -> onnx.ModelProto:
        calib, reference = str(subject.built.calib), subject.built.float_model
        done = api.rewrite(
            subject.quantized,
            calib=calib,
            float_model=reference,
            options=options,
            passes=passes or None,
            verify=False,
        )
        return done.model

    return rewrite


@dataclass(frozen=True)
class Bench:
    """Networks are built once per seed, and kept.

    Attributes:
        folder: where they are kept.
        seeds: how many, from 0.
    """

    folder: Path = Path("build/tables")
    seeds: int = 5

    def network(self, name: str) -> Network:
        """What is known of a network."""
        return find_network(name)

    def built(self, network: str) -> Iterator[Built]:
        """The files of a network, for each seed."""
        for seed in range(self.seeds):
            folder = self.folder / f"{network}-{seed}"
            built = Built.at(folder, network)
            if built.test is None or not built.test.exists():  # it is written last
                print(f"building {network}, seed {seed}", file=sys.stderr)
                built = find_network(network).build(folder, seed)
            yield built

    def subjects(self, setting: Setting) -> Iterator[Subject]:
        """A quantized network, for each seed."""
        for built in self.built(setting.network):
            name = label(setting.quantizer, setting.weight_bits, setting.act_bits)
            path = built.calib.parent / f"{setting.network}.{name}.onnx"
            if not path.exists():
                quantize = find_quantizer(setting.quantizer, setting.weight_bits, setting.act_bits)
                quantize(built.float_model, path, built.calib)
            yield Subject(setting, built, path)

    def float_scores(self, network: str) -> list[Scores]:
        """Of the float network, for each seed."""
        return [measure(self.network(network), b, [b.float_model])[0] for b in self.built(network)]

    def scores(self, setting: Setting, rewrites: Mapping[str, Rewrite]) -> dict[str, list[Scores]]:
        """Of each rewrite, for each seed, on the test samples."""
        found: dict[str, list[Scores]] = {name: [] for name in rewrites}
        for subject in self.subjects(setting):
            with tempfile.TemporaryDirectory() as folder:
                paths = []
                for k, (name, rewrite) in enumerate(rewrites.items()):
                    print(f"{setting.network} {subject.quantized.parent.name} {setting.bits}: {name}", file=sys.stderr)
                    paths.append(Path(folder) / f"{k}.onnx")
                    onnx.save(rewrite(subject), paths[-1])
                for name, one in zip(
                    rewrites, measure(self.network(setting.network), subject.built, paths), strict=True
                ):
                    found[name].append(one)
        return found


def wrap(text: str) -> list[str]:
    """Prose in lines of up to 120 characters."""
    return textwrap.wrap(" ".join(text.split()), 120, break_on_hyphens=False, break_long_words=False)


def spread(values: Sequence[float], digits: int = 2, sign: str = "") -> str:
    """Mean and standard deviation over the seeds."""
    mean = f"{np.mean(values):{sign}.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean


def tasks(scores: Sequence[Scores]) -> list[float]:
    """The task figures in per cent."""
    return [s.task for s in scores if s.task is not None]


def gains(scores: Sequence[Scores], base: Sequence[Scores]) -> list[float]:
    """How much more the same seed scores than `base`, in points."""
    return [a - b for a, b in zip(tasks(scores), tasks(base), strict=True)]


def column(scores: Mapping[str, Sequence[Scores]], base: str) -> dict[str, tuple[str, str, str]]:
    """For each rewrite: top-1, its gain over `base` seed by seed, SQNR."""
    return {
        name: (
            spread(tasks(found)),
            "" if name == base else spread(gains(found, scores[base]), sign="+"),
            spread([s.sqnr_db for s in found if s.sqnr_db is not None]),
        )
        for name, found in scores.items()
    }


@dataclass
class Table:
    """A results file.

    Attributes:
        title: one line.
        what: what was done, in sentences.
        parts: markdown tables as (caption, header, rows).
        findings: what is seen, each a sentence made from the figures above.
        paper: the paper's figures as a markdown table, with its caption.
        apart: why the two are not comparable.
        drawn: what the seed decides.
    """

    title: str
    what: str
    parts: list[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    paper: str = ""
    apart: str = ""
    drawn: str = "weights, order and split of the data"

    def markdown(self, command: str, bench: Bench) -> str:
        """The file's text."""
        versions = ", ".join(f"{p} {package_version(p)}" for p in PACKAGES)
        seeds = f"Mean ± standard deviation over {bench.seeds} seeds ({self.drawn})."
        if bench.seeds == 1:
            seeds = f"One seed ({self.drawn}): without spread, so that small differences say nothing."
        lines = [f"# {self.title}", "", f"    {command}", "", *wrap(f"{self.what} {seeds}")]
        for caption, header, rows in self.parts:
            lines += ["", *([f"{caption}:", ""] if caption else []), f"| {' | '.join(header)} |"]
            lines += ["|" + "---|" * len(header), *(f"| {' | '.join(r)} |" for r in rows)]
        if self.findings:
            lines += ["", "What is seen:", "", *(f"- {f}" for f in self.findings)]
        if self.paper:
            lines += ["", "The paper's figures, for reference:", "", self.paper.strip()]
        lines += ["", *wrap(f"Not comparable: {self.apart}")] if self.apart else []
        lines += ["", *wrap(f"Versions: python {platform.python_version()}, {versions}; {platform.machine()}.")]
        return "\n".join(lines) + "\n"


def by_setting(
    columns: Mapping[str, Mapping[str, tuple[str, str, str]]], first: str = "", metric: str = "top-1, %"
) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Header and rows of a table with three columns a setting."""
    header = [first]
    for name in columns:
        header += [f"{name}: {metric}", "gain", "SQNR, dB"]
    rows = next(iter(columns.values()))
    return header, [[row, *(c for found in columns.values() for c in found[row])] for row in rows]
