"""Compensation branches in float or in int8 QDQ: what onnxruntime makes of both, and what the rounding costs.

    python tests/benchmarks/branch_arithmetic.py QUANTIZED.onnx SAMPLES.npz [--samples 256] [--form dense] [--runs 100]

Linear branches are fitted on three quarters of the samples.  Their layers are then written once more in int8:
regressors, weights (per channel), partial sums and the correction in 8 bits, each on its range on those samples.

    int8               y + DQ(Q(W DQ(Q(x)))): the block's output itself is not rounded once more
    int8 throughout    DQ(Q(y)) + DQ(Q(W DQ(Q(x)))): an integer kernel for the sum too, where the file allows it

SQNR is that of the model's output on the other quarter, against the model without activation quantizers; latency is
that of one sample at ORT_ENABLE_ALL on one thread, the fastest of interleaved runs, against the file without branches.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.measurement.quality import compare
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.nodes import Array
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes.compensate import Compensate
from onnx_ocs.probes.reference import reference
from onnx_ocs.records.branches import Inserted, read_branches
from onnx_ocs.regions.find import find_regions
from onnx_ocs.runtime.instrument import expose
from onnx_ocs.runtime.session import Session
from onnx_ocs.targets.ort import optimized

INTEGERS = ("QLinear", "QGemm", "MatMulInteger", "ConvInteger")


class Writer:
    """Branches once more, in float or, where the ranges of all tensors are known, in int8."""

    def __init__(self, model: onnx.ModelProto, ranges: dict[str, float] | None, throughout: bool) -> None:
        self.model, self.ranges, self.throughout = onnx.ModelProto(), ranges, throughout
        self.model.CopyFrom(model)
        self.graph = EditableGraph(self.model)
        self.written: dict[str, str] = {}  # tensors by what they are, the same in float and in int8
        points = [self.graph.constant(n.input[2]) for n in self.graph.nodes if n.op_type == "QuantizeLinear"]
        unsigned = any(z is not None and z.dtype == np.uint8 for z in points)  # integer Adds take equal types only
        self.zero = np.uint8(128) if unsigned else np.int8(0)
        for b in read_branches(self.model):
            if b.entry["weights"] and b.entry["form"] != "diagonal":
                self.write(b)
        self.graph.commit()

    def constant(self, value: Array) -> str:
        return self.graph.add_initializer("arithmetic", value)

    def node(self, op: str, inputs: list[str], **attributes: object) -> str:
        return self.graph.add_node(op, inputs, self.graph.fresh("arithmetic"), **attributes)

    def rounded(self, x: str, what: str) -> str:
        self.written[what] = x
        if self.ranges is None:
            return x
        grid = [self.constant(np.float32(max(self.ranges[what], 1e-12) / 127)), self.constant(self.zero)]
        return self.node("DequantizeLinear", [self.node("QuantizeLinear", [x, *grid]), *grid])

    def layer(self, x: str, name: str, axis: int) -> str:
        """One layer of a branch; axis is that of the weight's output channels."""
        w = self.graph.constant(name)
        assert w is not None
        kernel = {"kernel_shape": w.shape[2:]} if w.ndim > 2 else {}
        weight = name
        if self.ranges is not None:
            step = np.abs(w).max(tuple(a for a in range(w.ndim) if a != axis), keepdims=True) / 127 + 1e-20
            integers = self.constant(np.rint(w / step).astype(np.int8))
            grid = [self.constant(step.ravel().astype(np.float32)), self.constant(np.zeros(step.size, np.int8))]
            weight = self.node("DequantizeLinear", [integers, *grid], axis=axis)
        return self.node("Conv" if kernel else "MatMul", [x, weight], **kernel)

    def write(self, b: Inserted) -> None:
        e, g = b.entry, self.graph
        axis = 0 if g.constant(e["weights"][0]).ndim > 2 else 1  # type: ignore[union-attr]
        own, total = None, None
        for k, name in enumerate(e["weights"]):
            layer = next(n for n in g.nodes if name in n.input)
            x = g.producer[layer.input[0]].input[0]  # in front of the Clip: rounding saturates by itself
            x = self.rounded(x, f"{b.output}/{k}")
            own = x if e["regressors"][k] == e["before"] else own
            part = self.layer(x, name, axis)
            total = part if total is None else self.node(
                "Add", [self.rounded(total, f"{b.output}/first"), self.rounded(part, f"{b.output}/second")]
            )  # fmt: skip
        assert total is not None
        if e["back"] is not None:
            total = self.layer(self.rounded(total, f"{b.output}/low"), e["back"], axis)
        bias = g.constant(e["bias"])
        assert bias is not None
        if g.producer[total].op_type == "Conv" and self.ranges is None:
            total = self.node("Add", [total, e["bias"]])
        elif g.producer[total].op_type == "Conv":  # an int32 bias, as an integer kernel takes it
            x, w = (g.producer[t] for t in g.producer[total].input)
            step = g.constant(x.input[1]) * g.constant(w.input[1])  # type: ignore[operator]
            integers = self.constant(np.rint(bias.ravel() / step).astype(np.int32))
            grid = [self.constant(step.astype(np.float32)), self.constant(np.zeros(step.size, np.int32))]
            g.producer[total].input.append(self.node("DequantizeLinear", [integers, *grid], axis=0))
        else:
            total = self.node("Add", [total, e["bias"]])
        end = g.producer[b.after]
        g.set_input(end, 1, self.rounded(total, f"{b.output}/correction"))
        if self.throughout and own is not None:
            g.set_input(end, 0, own)


def ranges(model: onnx.ModelProto, feeds: Iterator[dict[str, Array]]) -> dict[str, float]:
    """Largest absolute value of every tensor that is rounded in int8."""
    floats = Writer(model, None, False)
    session = Session(expose(floats.model, floats.written.values()), "enable_all", fusion=False)
    found = dict.fromkeys(floats.written, 0.0)
    for feed in feeds:
        got = session.run(feed, list(dict.fromkeys(floats.written.values())))
        found = {k: max(v, float(np.abs(got[floats.written[k]]).max())) for k, v in found.items()}
    return found


def latencies(models: list[onnx.ModelProto], feed: dict[str, Array], runs: int) -> Array:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    sessions = [ort.InferenceSession(m.SerializeToString(), options, ["CPUExecutionProvider"]) for m in models]
    seconds: list[list[float]] = [[] for _ in sessions]
    for _ in range(runs):
        for s, times in zip(sessions, seconds, strict=True):
            start = time.perf_counter()
            s.run(None, feed)
            times.append(time.perf_counter() - start)
    return np.min(seconds, axis=1)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("quantized", type=Path)
    p.add_argument("samples", type=Path)
    p.add_argument("--limit", "--samples", dest="limit", type=int, default=256)
    p.add_argument("--form", default="dense", choices=["dense", "low rank"])
    p.add_argument("--runs", type=int, default=100)
    a = p.parse_args()
    old = onnx.load(a.quantized)
    with np.load(a.samples) as z:
        arrays = {k: z[k][: a.limit] for k in z.files}
    count = 3 * len(next(iter(arrays.values()))) // 4
    fit = open_samples({k: v[:count] for k, v in arrays.items()}, old)
    others = open_samples({k: v[count:] for k, v in arrays.items()}, old)
    new = onnx.ModelProto()
    new.CopyFrom(old)
    Compensate(forms=(a.form,), linear=True).run(new, Context(fit, original=old))
    known = ranges(new, (dict(f) for f in fit.batches(8)))
    models = [old, new, Writer(new, known, False).model, Writer(new, known, True).model]
    ref = reference(old, find_regions(EditableGraph(old), infer_shapes(old)))
    quality = compare(ref, models, others)
    took = latencies(models, dict(next(fit.batches(1))), a.runs)
    branches = sum(bool(b.entry["weights"]) for b in read_branches(new))
    print(f"{a.quantized.name}: {branches} linear branches, {a.form}; {count} samples to fit, the rest to measure")
    print(f"{'':24} {'SQNR dB':>8} {'ms':>8} {'ratio':>7} {'integer nodes':>14} {'nodes':>6}")
    names = ("no branch", "float", "int8", "int8 throughout")
    for name, m, q, t in zip(names, models, quality, took, strict=True):
        run = optimized(m)
        ops = [] if run is None else [n.op_type for n in run.graph.node]
        whole = sum(o.startswith(INTEGERS) for o in ops)
        print(f"{name:24} {q.sqnr_db:8.2f} {1e3 * t:8.2f} {t / took[0]:7.3f} {whole:14} {len(ops):6}")


if __name__ == "__main__":
    main()
