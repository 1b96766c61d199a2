"""The command line of benchmarks that see a quantized model, its float model and samples."""

from __future__ import annotations

import argparse
from pathlib import Path


def parser(doc: str, runs: int) -> argparse.ArgumentParser:
    """Takes the three files, how many samples, and how many runs by default."""
    p = argparse.ArgumentParser(description=doc.splitlines()[0])
    p.add_argument("quantized", type=Path)
    p.add_argument("float_model", type=Path)
    p.add_argument("samples", type=Path)
    p.add_argument("--limit", "--samples", dest="limit", type=int, default=64)
    p.add_argument("--runs", type=int, default=runs)
    return p
