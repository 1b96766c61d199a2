"""Time of a whole `rewrite`, planned, measured against the float model and verified, beside one `quantize_static` run.

    python tests/benchmarks/whole.py QUANTIZED.onnx FLOAT.onnx SAMPLES.npz [--samples 64] [--budget 0.1]
        [--effort quick] [--runs 1]

Both see the same samples, one after the other, each in a process of its own: `onnx_ocs.rewrite(calib=, float_model=)`,
and onnxruntime's `quantize_static` with the percentile calibrator, per channel.  Below the rewrite stands where its
time went, by what it reported as progress.  Quote the ratios: seconds depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from harness import parser


def rewrite(a: argparse.Namespace, out: Path) -> dict[str, float]:
    import onnx_ocs

    stages: dict[str, float] = defaultdict(float)
    last = ["reading", time.perf_counter()]

    def progress(what: str, _done: int, _total: int | None) -> None:
        now = time.perf_counter()
        stages[last[0]] += now - last[1]
        last[:] = [what, now]

    options = onnx_ocs.PlanOptions(budget=a.budget, effort=a.effort)
    onnx_ocs.rewrite(
        a.quantized,
        out,
        calib=str(a.samples),
        float_model=a.float_model,
        options=options,
        limit=a.limit,
        progress=progress,
    )
    progress("", 0, None)
    return dict(stages)


def quantize(a: argparse.Namespace, out: Path) -> dict[str, float]:
    from calibration import Reader
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, quantize_static

    quantize_static(
        a.float_model,
        out,
        Reader(a.samples, a.limit),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        calibrate_method=CalibrationMethod.Percentile,
    )
    return {}


def main() -> None:
    p = parser(__doc__, runs=1)
    p.add_argument("--budget", type=float, default=0.1)
    p.add_argument("--effort", choices=("auto", "quick", "full"), default="auto")
    p.add_argument("--one", help=argparse.SUPPRESS)
    a = p.parse_args()
    tasks = {"quantize_static": quantize, "rewrite": rewrite}
    if a.one:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter(), time.process_time()
            stages = tasks[a.one](a, Path(folder) / "out.onnx")
            took = time.perf_counter() - start[0], time.process_time() - start[1]
        print(json.dumps([took, stages]))
        return
    seconds: dict[str, list[list[float]]] = {t: [] for t in tasks}
    stages: dict[str, float] = {}
    for _ in range(a.runs):
        for task, found in seconds.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--one", task]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            took, shares = json.loads(done.stdout.splitlines()[-1])
            found.append(took)
            stages = shares or stages
    first = np.median(seconds["quantize_static"], axis=0)
    print(f"{a.limit} samples, median of {a.runs} interleaved runs")
    for task, found in seconds.items():
        wall, cpu = np.median(found, axis=0)
        print(f"{task:18} {wall:8.1f} s ({wall / first[0]:.2f})   CPU {cpu:8.1f} s ({cpu / first[1]:.2f})")
    for what, took in sorted(stages.items(), key=lambda s: -s[1]):
        print(f"    {what:44} {took:8.1f} s")


if __name__ == "__main__":
    main()
