"""What the rewrite adds on top of other quantizers: same network, same calibration samples, same test samples.

    python -m models.tables.compare FLOAT.onnx CALIB.npz TEST.npz [--bits W4A8]
            [--budget 0.1] [--python nncf=/path/to/python] > table.md

Every quantizer of `models.quantizers` and `models.peers` quantizes FLOAT.onnx with CALIB.npz; `onnx_ocs` rewrites what
comes out with the same samples; everything is judged on TEST.npz, which no quantizer and no pass has seen.  Prints a
markdown table and names the best pair; what it is doing goes to stderr.

A quantizer that is not installed here runs in another environment: `--python MODULE=INTERPRETER`.  One that is nowhere,
or fails, or does not make `--bits`, gets a line that says so; at few bits outputs and the first and the last layer
have 8.  With `--folder` the files and figures stay, and what is there is not done again.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

import onnx_ocs
from models.commandline import command_line, cpu_seconds, exit_code
from models.quantizers.peers import PEERS
from models.quantizers.registry import find_quantizer
from models.tables.metrics import METRICS, evaluate, first_output
from models.tables.rows import FREE, SAME, Row, table
from onnx_ocs.errors import UserError, VerificationError
from onnx_ocs.passes import Compensate, Pass, Translate
from onnx_ocs.planning.plan import Plan
from onnx_ocs.report.environment import package_version
from onnx_ocs.runtime.session import RUN_ERRORS, Session

__all__ = ["BASE", "Task", "compare", "main", "quantizers"]

Array = npt.NDArray[Any]
HERE = Path(__file__).resolve().parents[1]
BASE = "onnxruntime, min-max"  # what other quantizers' files are timed against, where it is there
BITS = {f"W{w}A{a}": (w, a) for w in (8, 4, 3, 2) for a in (8, 4, 3, 2)}
CHAINS = (FREE, "translate", "translate,compensate")
ROUNDS = 300  # timed runs of each model, in turns, or as many as fit into
LONGEST = 30.0  # seconds


@dataclass(frozen=True)
class Task:
    """What all quantizers are given.

    Attributes:
        float_model: the float network.
        calib: `.npz`, an array for each input.
        test: the same for other samples, and `labels` where there are any.
        metric: one of `models.metrics.METRICS`.
        budget: extra MACs for copies, and again for branches, as a share of the network's.
        bits: one of `BITS`.
    """

    float_model: Path
    calib: Path
    test: Path
    metric: str = "top1"
    budget: float = 0.1
    bits: str = "W8A8"

    def figure(self) -> str:
        """What the first figure is called: the metric, or without labels how far the float network's answer is kept."""
        with np.load(self.test, allow_pickle=False) as archive:
            return METRICS[self.metric].task if "labels" in archive else METRICS[self.metric].agreement

    def fingerprint(self) -> str:
        """A digest of all that the figures depend on, but for versions."""
        bits = f" {self.bits}" * (self.bits != "W8A8")
        digest = hashlib.sha256(f"{self.metric} {self.budget}{bits}".encode())
        for path in (self.float_model, self.calib, self.test):
            digest.update(path.read_bytes())
        return digest.hexdigest()[:16]


def _own(name: str, task: Task, out: Path) -> str:
    find_quantizer(name, *BITS[task.bits])(task.float_model, out, task.calib)
    return package_version("onnxruntime" if name.startswith("ort") else "onnx-ocs")


def _peer(name: str, python: str, task: Task, out: Path) -> str:
    if task.bits != "W8A8" and not PEERS[name].low:
        raise UserError("makes W8A8 only")
    arguments = [str(p.resolve()) for p in (task.float_model, out, task.calib)]
    arguments += map(str, BITS[task.bits]) if PEERS[name].low else ()
    with tempfile.TemporaryDirectory(prefix="peer_") as scratch:  # some leave files where they are started
        command = [python, str(HERE / "quantizers" / "peers.py"), name, *arguments]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    if done.returncode or not out.exists():
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it says nothing"]
        raise UserError(f"fails: {lines[-1].strip()[:200]}")
    return done.stdout.splitlines()[-1]


def quantizers(pythons: Mapping[str, str]) -> dict[str, Callable[[Task, Path], str]]:
    """Every quantizer by name: writes a file, returns its version, raises UserError with what went wrong.

    Args:
        pythons: module -> interpreter that has it, for those that are not installed here.
    """
    found: dict[str, Callable[[Task, Path], str]] = {
        "onnxruntime, min-max": partial(_own, "ort-minmax"),
        "onnxruntime, entropy": partial(_own, "ort-entropy"),
        "onnxruntime, percentile 99.9": partial(_own, "ort-percentile"),
        "models/lowbit.py, least squares": partial(_own, "lowbit"),
    }
    for name, peer in PEERS.items():
        python = pythons.get(peer.module) or (sys.executable if importlib.util.find_spec(peer.module) else None)
        found[name] = partial(_missing, peer.package, peer.module) if python is None else partial(_peer, name, python)
    return found


def _missing(package: str, module: str, _task: Task, _out: Path) -> str:
    raise UserError(f"not installed: `pip install {package}` somewhere, and `--python {module}=INTERPRETER`")


def compare(
    task: Task, folder: Path, names: Sequence[str], pythons: Mapping[str, str], chains: Sequence[str] = ("", *CHAINS)
) -> list[Row]:
    """Quantize, rewrite and judge.

    Args:
        task: network and samples.
        folder: keeps files and figures; what is there already is not done again.
        names: of `quantizers`.
        pythons: as for `quantizers`.
        chains: which passes follow; "" for none, which must be the first.

    Raises:
        UserError: the folder holds the comparison of other files, or the network does not run on the samples.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stamp = folder / "task.txt"
    if not stamp.exists():
        stamp.write_text(task.fingerprint(), encoding="utf-8")
    elif stamp.read_text(encoding="utf-8") != task.fingerprint():
        raise UserError(f"{folder} holds the comparison of other files or options: choose another folder")
    with np.load(task.test, allow_pickle=False) as archive:
        samples = dict(archive)
    judge = _Judge(task, first_output(task.float_model, samples), samples)
    available = quantizers(pythons)
    return [row for name in names for row in _rows(name, available[name], judge, folder, chains)]


class _Judge:
    """The test samples, and what the float network answers."""

    def __init__(self, task: Task, reference: Array, samples: Mapping[str, Array]) -> None:
        self.task, self.reference, self.samples = task, reference, samples

    def row(self, quantizer: str, chain: str, path: Path, before: Path, report: Mapping[str, Any], **said: Any) -> Row:
        """The figures of a file; `said`: further fields of the row."""
        scores = evaluate(path, self.reference, self.samples, self.task.metric)
        cost = report["cost"]
        extra = cost["macs_after"] / cost["macs_before"] - 1
        timed = path != before and before.exists() and said.get("verdict") != SAME
        latency = self._latency(path, before) if timed else None
        kernels = cost["integer_kernels_after"]
        figure = scores.agreement if scores.task is None else scores.task
        return Row(quantizer, chain, "", figure, scores.sqnr_db, extra, kernels, latency, **said)

    def rewritten(
        self, quantizer: str, chain: str, path: Path, before: Path, done: onnx_ocs.RewriteResult, seconds: float
    ) -> Row:
        """The figures of what a rewrite made of a file."""
        verdict = done.report["verification"]["verdict"] if done.changed else SAME
        return self.row(quantizer, chain, path, before, done.report, verdict=verdict, seconds=seconds)

    def _latency(self, path: Path, before: Path) -> float | None:
        """Median time of single-sample runs, in turns with the quantized model; None where one does not load."""
        try:
            sessions = [Session(onnx.load(p), "enable_all", fusion=True, threads=2) for p in (path, before)]
        except RUN_ERRORS:
            return None
        feed = {name: self.samples[name][:1] for name in sessions[0].inputs}
        times: list[list[float]] = [[], []]
        end = time.perf_counter() + LONGEST
        for turn in range(-5, ROUNDS):
            if time.perf_counter() > end:
                break
            for k in (0, 1) if turn % 2 else (1, 0):
                start = time.perf_counter()
                sessions[k].run(feed)
                if turn >= 0:
                    times[k].append(time.perf_counter() - start)
        return float(np.median(times[0]) / np.median(times[1]))


def _slug(name: str) -> str:
    return "_".join(name.lower().replace(",", "").replace("/", " ").split())


def _rows(
    name: str, quantize: Callable[[Task, Path], str], judge: _Judge, folder: Path, chains: Sequence[str]
) -> list[Row]:
    """A quantizer's rows, from the folder or made."""
    task, slug = judge.task, _slug(name)
    path, rows = folder / f"{slug}.onnx", []
    plan: Plan | None = None
    title = name
    for chain in chains:
        target = folder / f"{slug}{'.' * bool(chain)}{chain.replace(',', '_')}.onnx"
        kept = target.with_suffix(".json")
        if kept.exists():
            rows.append(Row(**json.loads(kept.read_text(encoding="utf-8"))))
            title = rows[0].quantizer
            continue
        print(f"{name}: {chain or 'quantizing'}", file=sys.stderr, flush=True)
        start = cpu_seconds()
        try:
            if not chain:
                title = f"{name} ({quantize(task, path)})"
                spent = cpu_seconds() - start
                base = folder / f"{_slug(BASE)}.onnx"
                rows.append(judge.row(title, chain, path, base, onnx_ocs.inspect(path), seconds=spent))
            elif chain == FREE:
                done = onnx_ocs.rewrite(path, target, str(task.calib), task.float_model, options=onnx_ocs.PlanOptions())
                rows.append(judge.rewritten(title, chain, target, path, done, cpu_seconds() - start))
            else:
                if plan is None:
                    options = onnx_ocs.PlanOptions(budget=task.budget, effort="full")
                    plan, _ = onnx_ocs.plan(path, str(task.calib), options, task.float_model)
                passes: list[Pass] = [Translate(plan=plan)]
                passes += [Compensate(budget=task.budget)] * chain.count(",")
                done = onnx_ocs.rewrite(path, target, str(task.calib), task.float_model, passes)
                rows.append(judge.rewritten(title, chain, target, path, done, cpu_seconds() - start))
        except VerificationError as e:
            rows.append(Row(title, chain, f"not verified, nothing was written: {e.args[0]}"))
        except UserError as e:
            rows.append(Row(title, chain, str(e)))
        if not rows[-1].said:
            kept.write_text(json.dumps(asdict(rows[-1])), encoding="utf-8")
        elif not chain:
            break
    return rows


def show(args: argparse.Namespace) -> None:
    """Compare what the command line asks for, and print the table."""
    pythons = dict(p.partition("=")[::2] for p in args.python)
    names = [n for n in quantizers(pythons) if not args.only or any(p.lower() in n.lower() for p in args.only)]
    for path in (args.float_model, args.calib, args.test):
        if not path.is_file():
            raise UserError(f"there is no file {path}")
    if not names:
        raise UserError(f"no quantizer's name has {' or '.join(args.only)}: {'; '.join(quantizers({}))}")
    modules = sorted({p.module for p in PEERS.values()})
    if unknown := sorted(set(pythons) - set(modules)):
        raise UserError(f"--python {unknown[0]}: choose from {', '.join(modules)}")
    task = Task(args.float_model, args.calib, args.test, args.metric, args.budget, args.bits)
    with tempfile.TemporaryDirectory(prefix="compare_") as scratch:
        rows = compare(task, args.folder or Path(scratch), names, pythons, ("", *(args.chain or CHAINS[:1])))
    print(table(rows, task.figure()))


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = command_line("models.tables.compare", __doc__)
    parser.add_argument("float_model", type=Path, metavar="FLOAT.onnx")
    parser.add_argument("calib", type=Path, metavar="CALIB.npz", help="an array for each input, samples first")
    parser.add_argument("test", type=Path, metavar="TEST.npz", help="the same for other samples, and `labels` if any")
    parser.add_argument("--budget", type=float, default=0.1, help="extra MACs of each pass, default 0.1")
    parser.add_argument("--bits", choices=BITS, default="W8A8", metavar="WxAy", help="8, 4, 3 or 2 each, default W8A8")
    parser.add_argument("--metric", choices=sorted(METRICS), default="top1", help="default top1")
    parser.add_argument("--only", action="append", default=[], metavar="PART", help="quantizers whose name has it")
    parser.add_argument("--chain", action="append", choices=CHAINS, help="what follows; default: default")
    parser.add_argument("--python", action="append", default=[], metavar="MODULE=INTERPRETER", help="who has it")
    parser.add_argument("--folder", type=Path, help="keep files and figures; what is there is not done again")
    args = parser.parse_args(argv)
    return exit_code(lambda: show(args))


if __name__ == "__main__":
    sys.exit(main())
