"""Latency of rewritten models against the original, with onnxruntime's integer kernels.

    python tests/benchmarks/latency.py ORIGINAL.onnx REWRITTEN.onnx [...] [--runs 40]

One random sample, ORT_ENABLE_ALL, one thread; the models take turns, and CPU time is counted, which other work on the
machine disturbs less than wall time.  Prints the ratio of medians to the original; of the shortest of twelve runs where
a model is larger than 256 MB.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.measurement.latency import latencies, shortest
from onnx_ocs.model import files

LARGE = 12  # runs of each, where one is large


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("models", nargs="+", type=Path)
    p.add_argument("--runs", type=int, default=40)
    a = p.parse_args()
    models = [files.load_model(path) for path in a.models]
    feed = next(random_samples(models[0], 1, 0, {}).batches(1, 1))
    medians = latencies(models, feed, a.runs, math.inf)
    if medians is None:
        found = shortest(models, feed, LARGE, math.inf, LARGE)
        medians = None if found is None else [1e3 * s for s in found]
    if medians is None:
        sys.exit("onnxruntime does not run all of them")
    for path, milliseconds in zip(a.models, medians, strict=True):
        print(f"{path.name:48} {milliseconds:9.2f} ms   x {milliseconds / medians[0]:.2f}")


if __name__ == "__main__":
    main()
