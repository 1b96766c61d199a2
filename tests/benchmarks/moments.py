"""What the moments of `reconstruct` take of its time, and how large they and what they are summed from are.

    python tests/benchmarks/moments.py QUANTIZED.onnx SAMPLES.npz [--samples 64]

If workers summed moments, the network's tensors between two stages would cross files that all workers see, and the
products of every batch would go to the coordinator, which adds them in the order of the batches.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnx_ocs import api
from onnx_ocs.measurement.gate import Judge
from onnx_ocs.reconstruction.fit import Fitting
from onnx_ocs.reconstruction.forward import Forward
from onnx_ocs.reconstruction.moments import Sums
from onnx_ocs.reconstruction.shelf import Shelf

seconds: Counter[str] = Counter()
sizes: Counter[str] = Counter()
calls: Counter[str] = Counter()


def timed(of: type, name: str, what: str, clock: Callable[[], float]) -> None:
    """Add up the CPU seconds of a method."""
    method = getattr(of, name)

    def measured(*args: Any) -> Any:
        before = clock()
        try:
            return method(*args)
        finally:
            seconds[what] += clock() - before
            calls[what] += 1

    setattr(of, name, measured)


def weighed(of: type, name: str, size: Callable[..., tuple[str, int]]) -> None:
    """Add up the bytes that a method is given."""
    method = getattr(of, name)

    def counted(self: Any, *args: Any) -> Any:
        what, found = size(*args)
        sizes[what] += found
        return method(self, *args)

    setattr(of, name, counted)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("quantized", type=Path)
    p.add_argument("samples", type=Path)
    p.add_argument("--limit", "--samples", dest="limit", type=int, default=64)
    a = p.parse_args()
    whole, one = time.process_time, time.thread_time
    timed(Fitting, "_targets", "the reference's pass", whole)
    timed(Fitting, "_stage", "all stages", whole)
    timed(Fitting, "_solve_stage", "solving", whole)
    timed(Forward, "_ask", "of these: running the network", one)
    timed(Fitting, "_parts", "of these: products", one)
    timed(Sums, "add", "of these: adding products", one)
    timed(Judge, "losses", "judging", whole)
    weighed(Sums, "add", lambda part: ("products, batch by batch", sum(v.nbytes for v in part[1:])))
    weighed(Shelf, "put", lambda key, v: ("targets" if isinstance(key[0], str) else "between stages", v.nbytes))
    before = time.process_time()
    api.rewrite(a.quantized, calib=a.samples, passes="reconstruct", limit=a.limit, verify=False)
    print(f"rewrite: {time.process_time() - before:.1f} CPU s")
    for what, took in seconds.items():
        print(f"{what:30} {took:6.1f} CPU s, {calls[what]} times")
    for what, size in sizes.items():
        print(f"{what:30} {size / 1e6:6.0f} MB")


if __name__ == "__main__":
    main()
