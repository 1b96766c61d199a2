"""What benchmarks that see a quantized model, its float model and samples share."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np


def parser(doc: str, runs: int) -> argparse.ArgumentParser:
    """Takes the three files, how many samples, and how many runs by default."""
    p = argparse.ArgumentParser(description=doc.splitlines()[0])
    p.add_argument("quantized", type=Path)
    p.add_argument("float_model", type=Path)
    p.add_argument("samples", type=Path)
    p.add_argument("--limit", "--samples", dest="limit", type=int, default=64)
    p.add_argument("--runs", type=int, default=runs)
    return p


def interleaved(
    tasks: Mapping[str, Callable[[], object]], runs: int
) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Run all tasks in turns; medians of wall and CPU seconds, and what each returned last."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in tasks}
    said: dict[str, object] = {}
    for _ in range(runs):
        for name, task in tasks.items():
            start = time.perf_counter(), time.process_time()
            said[name] = task()
            seconds[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return {name: np.median(found, axis=0) for name, found in seconds.items()}, said
