"""What a whole rewrite costs: CPU time as a multiple of one pass of both models over the samples, and peak memory.

    python tests/benchmarks/passes.py QUANTIZED.onnx FLOAT.onnx SAMPLES.npz [--samples 64] [--stages] [-- OPTIONS]

A pass: the quantized and the float model once over the samples, a sample at a time, Q and DQ as they stand.  Each
measurement runs in a process of its own; what stands behind `--` goes to `onnx-ocs rewrite`.  `--stages` says where CPU
time went and how much memory was held there, by what the progress bar said last; start and end have no name.  The
digest is that of the written file, to be compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = os.sysconf("SC_PAGE_SIZE")


def spent() -> float:
    """CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def one_pass(quantized: str, float_model: str, samples: str, limit: int) -> dict[str, float]:
    """Both models over the samples."""
    import onnx

    from onnx_ocs.calibration.samples import open_samples
    from onnx_ocs.runtime.session import as_written

    model = onnx.load(quantized)
    feeds = list(open_samples(samples, model).batches(1, limit))
    sessions = [as_written(m, 1) for m in (model, onnx.load(float_model))]
    start = spent()
    for s in sessions:
        for f in feeds:
            s.run(f)
    return {"cpu": spent() - start}


class Stages:
    """CPU time and the most memory held, by what was said last."""

    def __init__(self) -> None:
        self.now, self.since = "(no name)", spent()
        self.cpu: dict[str, float] = defaultdict(float)
        self.held: dict[str, float] = defaultdict(float)
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.held[self.now] = max(self.held[self.now], pages * PAGE / 1e6)
            time.sleep(0.01)

    def __call__(self, what: str, done: int, total: int | None) -> None:
        at = spent()
        self.cpu[self.now] += at - self.since
        self.since = at
        self.now = what if total is None or done < total else "(no name)"


def rewritten(
    quantized: str, float_model: str, samples: str, limit: int, by_stage: bool, more: list[str]
) -> dict[str, object]:
    """A whole rewrite, as the command line does it."""
    from contextlib import contextmanager

    from onnx_ocs.cli import app, rewrite

    stages = Stages() if by_stage else None
    if stages is not None:
        rewrite.show_progress = contextmanager(lambda *_: (yield stages))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.onnx"
        args = ["rewrite", quantized, str(out), "--calib", samples, "--float", float_model, "--samples", str(limit)]
        start = time.perf_counter()
        try:
            sys.argv = ["onnx-ocs", *args, "--quiet", *more]
            app.main()
        except SystemExit as e:
            if e.code:
                raise
        wall = time.perf_counter() - start
        digest = hashlib.sha256(out.read_bytes()).hexdigest()[:16]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found: dict[str, object] = {"cpu": spent(), "wall": wall, "peak": peak, "digest": digest}
    if stages is not None:
        stages("", 0, None)
        found["stages"] = {k: (round(v, 2), round(stages.held[k])) for k, v in stages.cpu.items()}
    return found


def child(what: str, *args: object) -> dict[str, object]:
    """One measurement in a process of its own."""
    here = Path(__file__)
    done = subprocess.run(
        [sys.executable, str(here), "--child", json.dumps([what, *args])],
        env={"PYTHONPATH": str(ROOT), **os.environ},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        what, *args = json.loads(sys.argv[2])
        print(json.dumps({"pass": one_pass, "rewrite": rewritten}[what](*args)))
        return
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("quantized")
    p.add_argument("float_model")
    p.add_argument("samples")
    p.add_argument("--samples", dest="limit", type=int, default=64)
    p.add_argument("--stages", action="store_true")
    own, _, more = " ".join(sys.argv[1:]).partition(" -- ")
    a = p.parse_args(own.split())
    given = a.quantized, a.float_model, a.samples, a.limit
    single = child("pass", *given)["cpu"]
    found = child("rewrite", *given, a.stages, more.split())
    name = Path(a.quantized).stem
    print(
        f"{name}, {a.limit} samples: one pass {single:.2f} s, rewrite {found['cpu']:.1f} s of CPU "
        f"({found['cpu'] / single:.1f} passes), {found['wall']:.1f} s of wall, peak {found['peak']:.0f} MB, "
        f"{found['digest']}"
    )
    for stage, (cpu, held) in sorted(found.get("stages", {}).items(), key=lambda s: -s[1][0]):
        print(f"  {stage:32} {cpu:7.2f} s {cpu / single:6.2f} passes {held:7.0f} MB")


if __name__ == "__main__":
    main()
