"""Latency of rewritten models against the original, with onnxruntime's integer kernels.

    python tests/benchmarks/latency.py ORIGINAL.onnx REWRITTEN.onnx [...] [--runs 40]

One random sample, ORT_ENABLE_ALL, one thread; the models take turns, and CPU time is counted, which other work on the
machine disturbs less than wall time.  Prints the ratio of medians to the original.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from onnx_ocs import io
from onnx_ocs.calibration import random_samples


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("models", nargs="+", type=Path)
    p.add_argument("--runs", type=int, default=40)
    a = p.parse_args()
    feed = next(random_samples(io.load_model(a.models[0]), 1, 0, {}).batches(1, 1))
    sessions = [session(path) for path in a.models]
    took: list[list[float]] = [[] for _ in sessions]
    for s in sessions:
        s.run(None, feed)
    for _ in range(a.runs):
        for s, found in zip(sessions, took, strict=True):
            start = time.process_time()
            s.run(None, feed)
            found.append(time.process_time() - start)
    medians = [float(np.median(found)) for found in took]
    for path, seconds in zip(a.models, medians, strict=True):
        print(f"{path.name:48} {1e3 * seconds:9.2f} ms   x {seconds / medians[0]:.2f}")


if __name__ == "__main__":
    main()
