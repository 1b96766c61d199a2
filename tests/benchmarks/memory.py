"""Peak memory of a whole `plan` of the digits example, by the number of calibration samples.

    python tests/benchmarks/memory.py [--samples 100 1000 10000]

The samples are the example's own images, with noise, made one batch at a time by a function; each count runs in a
process of its own.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
COUNT = "ONNX_OCS_BENCHMARK_SAMPLES"


def feeds() -> Iterator[dict[str, np.ndarray]]:
    """The example's images again and again, never twice the same."""
    with np.load(ROOT / "models" / "digits.calib.npz") as archive:
        ((name, images),) = archive.items()
    rng = np.random.default_rng(0)
    left = int(os.environ[COUNT])
    while left:
        chosen = images[rng.integers(0, len(images), min(8, left))]
        left -= len(chosen)
        yield {name: (chosen + 0.02 * rng.standard_normal(chosen.shape)).astype(images.dtype)}


def measure() -> None:
    """One plan in this process."""
    from onnx_ocs import PlanOptions, plan

    plan(str(ROOT / "models" / "digits.w8a2.onnx"), "memory:feeds", PlanOptions(copies=3))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--samples", nargs="*", type=int, default=[100, 1_000, 10_000])
    a = p.parse_args()
    print(f"{'samples':>8} {'peak MiB':>9}")
    for count in a.samples:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "-c", "import memory; memory.measure()"],
                cwd=folder,
                env={
                    **os.environ,
                    COUNT: str(count),
                    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(ROOT)]),
                },
                check=True,
                capture_output=True,
                text=True,
            )
        print(f"{count:8} {float(done.stdout):9.1f}")


if __name__ == "__main__":
    main()
