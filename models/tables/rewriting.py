"""What a rewrite does to a network: build, quantize, rewrite, verify, measure; one row of a Markdown table."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ocs
from models.evaluate import measure
from models.networks.zoo import Network
from models.quantizers.registry import find_quantizer, label
from models.tables.metrics import METRICS, Scores
from onnx_ocs.errors import VerificationError

__all__ = ["HEADER", "row"]

HEADER = """\
| network | float | quantized | rewritten | MACs | latency | tensors | verdict |
|---|---|---|---|---|---|---|---|"""


def _cell(network: Network, scores: Scores) -> str:
    task = [] if scores.task is None else [f"{scores.task:.2f} %"]
    sqnr = "identical" if scores.sqnr_db is None else f"{scores.sqnr_db:.2f} dB"
    return " · ".join([*task, f"({scores.agreement:.2f} %)", sqnr])


def _changes(report: Mapping[str, Any]) -> tuple[str, str, str]:
    """The row's MACs, latency and tensors."""
    cost, regions, ratio = report["cost"], report["regions"], report["latency"]["ratio"]
    return (
        f"{100 * (cost['macs_after'] / cost['macs_before'] - 1):+.1f} %",
        "" if ratio is None else f"x {ratio:.2f}",
        f"{sum(r['status'] == 'applied' for r in regions)} of {len(regions)}",
    )


def row(
    network: Network,
    folder: Path,
    quantizer: str,
    weight_bits: int = 8,
    act_bits: int = 8,
    budget: float = 0.1,
    seed: int = 0,
) -> str:
    """Build a network in a folder, quantize it, rewrite it, and say what came of it.

    Args:
        network: which.
        folder: where its files go.
        quantizer: one of `models.quantizers.QUANTIZERS`.
        weight_bits: of weights, for lowbit.
        act_bits: of activations, for lowbit.
        budget: share of extra multiply-accumulates that the rewrite may spend.
        seed: of training, sampling and planning.

    Returns:
        A row below `HEADER`.  Scores are: task metric where there are labels, (agreement with float), SQNR.  Latency:
        of one sample in onnxruntime, after against before.  Tensors: quantized activations that were rewritten, of all.

    Raises:
        UserError: a package is missing, or the quantizer or onnx_ocs refuses the model.
    """
    start = time.perf_counter()
    quantize = find_quantizer(quantizer, weight_bits, act_bits)
    built = network.build(folder, seed)
    name = label(quantizer, weight_bits, act_bits)
    low, wide = folder / f"{network.name}.{name}.onnx", folder / f"{network.name}.{name}.wide.onnx"
    quantize(built.float_model, low, built.calib)
    options = onnx_ocs.PlanOptions(budget=budget, effort="full")
    try:
        result = onnx_ocs.rewrite(
            low, wide, calib=built.calib, float_model=built.float_model, options=options, seed=seed
        )
    except VerificationError:
        verdict, extra, latency, tensors, after = "FAILED", "", "", "", []
    else:
        extra, latency, tensors = _changes(result.report)
        verdict = "PASSED" if result.changed else "left as it is"
        after = [wide if result.changed else low]
    size = built.float_model.stat().st_size / 1e6
    reference, before, *rest = measure(network, built, [built.float_model, low, *after])
    cells = [
        f"{network.name}, {name}",
        f"{size:.1f} MB"
        + ("" if reference.task is None else f", {METRICS[network.metric].task} {reference.task:.2f} %"),
        _cell(network, before),
        *([_cell(network, s) for s in rest] or [""]),
        extra,
        latency,
        tensors,
        f"{verdict}, {time.perf_counter() - start:.0f} s",
    ]
    return f"| {' | '.join(cells)} |"
