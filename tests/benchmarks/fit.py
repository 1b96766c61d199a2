"""Time of fitting compensation branches beside one calibration pass of both models, interleaved in one run.

    python tests/benchmarks/fit.py QUANTIZED.onnx FLOAT.onnx SAMPLES.npz [--samples 64] [--runs 3]

The pass is what any calibration costs at least: the quantized model (Q/DQ as written) and the float model run once
over the samples, batch by batch, and nothing is done with what they compute.  The fit is the whole `compensate` pass:
float activations, equations, choice of branches, comparison on held-out samples.  Quote the ratio of CPU times: seconds
depend on the machine, and wall time on what else it does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from onnx_ocs.activations import BATCH
from onnx_ocs.calibration import open_samples
from onnx_ocs.manager import Context
from onnx_ocs.passes import Compensate
from onnx_ocs.runtime import Session


def both(quantized: onnx.ModelProto, floats: onnx.ModelProto, samples: Path, limit: int) -> str:
    given = open_samples(str(samples), quantized)
    sessions = [Session(m, "enable_all", fusion=False) for m in (quantized, floats)]
    for feed in given.batches(BATCH, limit):
        for s in sessions:
            s.run(feed)
    return ""


def fit(quantized: onnx.ModelProto, samples: Path, limit: int) -> str:
    model = onnx.ModelProto()
    model.CopyFrom(quantized)
    context = Context(open_samples(str(samples), model), limit, original=quantized)
    found = Compensate().run(model, context).compensations
    return f"{sum(e['status'] == 'applied' for e in found)} branches, {len(found)} blocks"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("quantized", type=Path)
    p.add_argument("float_model", type=Path)
    p.add_argument("samples", type=Path)
    p.add_argument("--limit", "--samples", dest="limit", type=int, default=64)
    p.add_argument("--runs", type=int, default=3)
    a = p.parse_args()
    quantized, floats = onnx.load(a.quantized), onnx.load(a.float_model)
    tasks: dict[str, Callable[[], str]] = {
        "both models, one pass": lambda: both(quantized, floats, a.samples, a.limit),
        "compensate": lambda: fit(quantized, a.samples, a.limit),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in tasks}
    said: dict[str, str] = {}
    for _ in range(a.runs):
        for name, task in tasks.items():
            start = time.perf_counter(), time.process_time()
            said[name] = task()
            seconds[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    one = np.median(seconds["both models, one pass"], axis=0)
    print(f"{a.limit} samples, median of {a.runs} interleaved runs")
    print(f"{'':24} {'seconds':>9} {'ratio':>7} {'CPU s':>9} {'ratio':>7}")
    for name, runs in seconds.items():
        wall, cpu = np.median(runs, axis=0)
        print(f"{name:24} {wall:9.2f} {wall / one[0]:7.2f} {cpu:9.2f} {cpu / one[1]:7.2f}  {said[name]}")


if __name__ == "__main__":
    main()
