"""What copies cost that are folded back for all their readers, in multiply-accumulates of an integer layer.

    python tests/benchmarks/folding.py [--seconds 3]

Blocks as in transformers and SiLU blocks, quantized to 8 bits, with one copy, with a copy of every tenth channel and of
every channel of the tensor that no layer reads.  The last column is what one value costs that passes a float node
(`PASS` of `onnx_ocs.planning.foldable`), from the ratio of the times and the values that it counts.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from zoo import Net, Style

from onnx_ocs.measurement.cost import cost
from onnx_ocs.measurement.latency import compared
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.planning.foldable import JOINED, MADE
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Region
from onnx_ocs.translation.decision import Decision
from onnx_ocs.translation.widen import widened


def transformer(tokens: int, dim: int) -> tuple[onnx.ModelProto, str]:
    """A LayerNormalization, an MLP and the sums around them; the stream is the first sum."""
    n = Net(Style(batch=1), x=(tokens, dim))
    t = n.op("Add", "x", n.matmul(n.qdq("x", "mid"), dim, bias=False))
    stream = n.qdq(t, "mid")
    hidden = n.op("Relu", n.matmul(n.qdq(n.layer_norm(stream), "mid"), 4 * dim, bias=False))
    return n.model(n.op("Add", stream, n.matmul(n.qdq(hidden), dim, bias=False))), t


def silu(channels: int, size: int) -> tuple[onnx.ModelProto, str]:
    """Two Convs with a SiLU between them, everything between quantizers."""
    n = Net(Style(batch=1), x=(channels, size, size))
    before = n.conv(n.qdq("x", "mid"), channels)
    o = n.qdq(before, "mid")
    return n.model(n.conv(n.qdq(n.op("Mul", o, n.qdq(n.op("Sigmoid", o))), "mid"), channels)), before


BLOCKS = {
    "transformer, 128 tokens of 384": lambda: transformer(128, 384),
    "transformer, 64 tokens of 96": lambda: transformer(64, 96),
    "SiLU, 64 channels of 56 x 56": lambda: silu(64, 56),
    "SiLU, 128 channels of 28 x 28": lambda: silu(128, 28),
}


def main() -> None:
    """Print a line for each block and number of copies."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    seconds = parser.parse_args().seconds
    for name, make in BLOCKS.items():
        model, tensor = make()
        shapes = infer_shapes(model)
        found = find_regions(Graph(model), shapes)
        region = next(r for r in found if isinstance(r, Region) and r.tensor == tensor)
        channels, values = region.walk.channels, int(np.prod([int(d or 1) for d in shapes[tensor]]))
        feed = {"x": np.random.default_rng(0).standard_normal([int(d or 1) for d in shapes["x"]]).astype(np.float32)}
        for copies in (1, channels // 10, channels):
            up = (np.arange(channels) < copies).astype(np.int64)
            new = widened(model, lambda _, of, k=region.key, n=up: [Decision(of[k], "late", n, 0 * n)])
            took = compared(model, new, feed, seconds)
            if took is not None:
                passed = (JOINED + MADE * copies / channels) * values
                paid = (took.ratio - 1) * cost(model, kernels=False).macs / passed
                print(f"{name:32} {copies:4} copies  x {took.ratio:.2f}  {paid:5.0f} MACs a value")


if __name__ == "__main__":
    main()
