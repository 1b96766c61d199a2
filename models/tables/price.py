"""The table of what OCS+ costs: time, parameters, FLOPs*bit (OCS+, table 7).

FLOPs*bit are multiply-accumulates times the bits of the weight times the bits of the activation, layer by layer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import onnx

from models.quantizers.registry import read_samples
from models.tables import papers
from models.tables.bench import APART, RULE, Bench, Rewrite, Setting, Table, column, plain, with_passes
from onnx_ocs.measurement.cost import cost, layer_macs
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import is_op
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes import Split, Translate
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.runtime.session import Session

__all__ = ["flops_bit", "table", "times"]

K = 0.2
BATCH = 64  # samples a run
ROUNDS = 60  # of which the fastest tenth's last counts: others share the machine


def flops_bit(model: onnx.ModelProto, weight_bits: int, edge_bits: int = 8) -> int:
    """Sum over the layers of multiply-accumulates * weight bits * activation bits, for one sample.

    Args:
        model: quantized by `models.lowbit`, rewritten or not: every layer reads its activation from a DQ.
        weight_bits: of all layers but those whose activation has `edge_bits`.
        edge_bits: of the first and the last layer, weight and activation.
    """
    graph, shapes, total = Graph(model), infer_shapes(model), 0
    for node in model.graph.node:
        macs = layer_macs(node, shapes)
        if not macs:
            continue
        n = graph.producer[node.input[0]]
        while not is_op(n, "QuantizeLinear"):
            n = graph.producer[n.input[0]]
        q = read_quantizer(graph, n)
        assert isinstance(q, Quantizer)
        bits = (q.qmax - q.qmin).bit_length()
        total += macs * bits * (edge_bits if bits == edge_bits else weight_bits)
    return total


def times(models: Sequence[onnx.ModelProto], feed: dict[str, np.ndarray]) -> list[float]:
    """Milliseconds a sample at ORT_ENABLE_ALL on one thread, the models in turns."""
    sessions = [Session(m, "enable_all", threads=1) for m in models]
    taken: list[list[float]] = [[] for _ in models]
    for _ in range(ROUNDS):
        for session, found in zip(sessions, taken, strict=True):
            start = time.perf_counter()
            session.run(feed)
            found.append(1e3 * (time.perf_counter() - start) / BATCH)
    return [sorted(t)[ROUNDS // 10] for t in taken]


def table(bench: Bench) -> Table:
    """The table, on the digits network."""
    made = Table("What it costs at k = 0.2 (OCS+, table 7)", RULE)
    made.what += " The copies are made by the producers (`--mode early`), as the paper's are: no node is added."
    made.paper = papers.COST
    made.apart = f"{APART} The paper does not say what its milliseconds were taken on."
    rewrites: dict[str, Rewrite] = {"plain": plain}
    rewrites |= {
        f"OCS, k = {K}": with_passes(Split(K, "early")),
        f"OCS+, k = {K}": with_passes(Translate(K, 1, "early")),
    }
    setting = Setting(weight_bits=4, act_bits=4)
    scores = column(bench.scores(setting, rewrites), "plain")
    header = ["W4A4", "top-1, %", "gain", "SQNR, dB", "time a sample, 4 bits", "8 bits", "parameters", "FLOPs*bit"]
    subject, eight = (next(iter(bench.subjects(s))) for s in (setting, Setting()))
    models, fast = ([r(s) for r in rewrites.values()] for s in (subject, eight))
    feed = {k: v[:BATCH] for k, v in read_samples(models[0], subject.built.calib).items()}
    prices = [
        (*pair, cost(m, kernels=False).params, flops_bit(m, 4))
        for m, *pair in zip(models, times(models, feed), times(fast, feed), strict=True)
    ]

    def show(k: int, row: int, text: str) -> str:
        return text if row == 0 else f"{text} (x {prices[row][k] / prices[0][k]:.2f})"

    rows = []
    for row, (name, (a, b, params, flops)) in enumerate(zip(rewrites, prices, strict=True)):
        cells = [show(0, row, f"{a:.4f} ms"), show(1, row, f"{b:.4f} ms")]
        cells += [show(2, row, f"{params:,}"), show(3, row, f"{flops / 1e6:.2f} M")]
        rows.append([name, *scores[name], *cells])
    made.parts.append(("", header, rows))
    kernels = cost(fast[0]).integer_kernels, cost(fast[2]).integer_kernels
    made.findings.append(
        "Time, parameters and FLOPs*bit are those of seed 0. onnxruntime has no 4-bit kernels, and computes the 4-bit "
        "file in float; the same rewrites of an 8-bit file keep their integer kernels "
        f"({kernels[0]} -> {kernels[1]} layers)."
    )
    return made
