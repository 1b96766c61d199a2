"""How planning grows with the number of quantized tensors: CPU time and peak memory of `plan` on synthetic networks.

    python tests/benchmarks/growth.py --tensors 100 400 1600 [--kind cnn transformer] [-- OPTIONS]

A residual network of small convolutions, and a transformer of small blocks (LayerNormalization, attention, a gated
pair), with random weights, quantized to W8A4 by `models.quantizers.lowbit`; each plan runs in a process of its own
with 8 samples and the float model.  What stands behind `--` goes to `onnx-ocs plan`.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

SAMPLES = 8


class Maker:
    """Builds a float network node by node."""

    def __init__(self, shape: list[int]) -> None:
        self.rng, self.count = np.random.default_rng(0), 0
        self.graph = helper.make_graph([], "growing", [], [])
        self.shape = shape
        self.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape]))

    def const(self, value: np.ndarray) -> str:
        self.count += 1
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"c{self.count}"))
        return f"c{self.count}"

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        self.count += 1
        self.graph.node.append(helper.make_node(kind, inputs, [f"t{self.count}"], name=f"n{self.count}", **attributes))
        return f"t{self.count}"

    def conv(self, x: str, channels: int, gain: float) -> str:
        w = gain * self.rng.standard_normal((channels, channels, 3, 3)) * np.sqrt(2 / (9 * channels))
        b = 0.1 * self.rng.standard_normal(channels)
        f = np.float32
        return self.op("Conv", x, self.const(w.astype(f)), self.const(b.astype(f)), pads=[1, 1, 1, 1])

    def dense(self, x: str, inputs: int, outputs: int, gain: float) -> str:
        w = gain * self.rng.standard_normal((inputs, outputs)) / np.sqrt(inputs)
        return self.op("MatMul", x, self.const(w.astype(np.float32)))

    def norm(self, x: str, width: int) -> str:
        gamma = np.exp(0.3 * self.rng.standard_normal(width)).astype(np.float32)
        return self.op("LayerNormalization", x, self.const(gamma), self.const(np.zeros(width, np.float32)))

    def model(self, t: str) -> onnx.ModelProto:
        self.graph.node.append(helper.make_node("Identity", [t], ["y"], name="last"))
        self.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", *self.shape]))
        found = helper.make_model(self.graph, opset_imports=[helper.make_opsetid("", 17)])
        found.ir_version = 8
        return found


def cnn(tensors: int) -> onnx.ModelProto:
    """Residual blocks of two convolutions: two tensors each."""
    m = Maker([8, 8, 8])
    x = "x"
    for _ in range(tensors // 2):
        hidden = m.op("Relu", m.conv(x, 8, 1.0))
        x = m.op("Relu", m.op("Add", x, m.conv(hidden, 8, 0.3)))
    return m.model(x)


def transformer(tensors: int) -> onnx.ModelProto:
    """Blocks of one head and a gated pair: four tensors each."""
    width = 32
    m = Maker([16, width])
    x, by = "x", np.float32(width**-0.5)
    for _ in range(tensors // 4):
        y = m.norm(x, width)
        q, k, v = (m.dense(y, width, width, 1.0) for _ in range(3))
        scores = m.op("Mul", m.op("MatMul", q, m.op("Transpose", k, perm=[0, 2, 1])), m.const(by))
        x = m.op("Add", x, m.dense(m.op("MatMul", m.op("Softmax", scores), v), width, width, 0.5))
        y = m.norm(x, width)
        gate = m.dense(y, width, 2 * width, 1.0)
        hidden = m.op("Mul", m.op("Mul", gate, m.op("Sigmoid", gate)), m.dense(y, width, 2 * width, 1.0))
        x = m.op("Add", x, m.dense(hidden, 2 * width, width, 0.5))
    return m.model(x)


def measured(kind: str, tensors: int, options: list[str]) -> str:
    """A plan in a process of its own."""
    from models.quantizers.lowbit import quantize

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        floats = {"cnn": cnn, "transformer": transformer}[kind](tensors)
        shape = [d.dim_value for d in floats.graph.input[0].type.tensor_type.shape.dim][1:]
        x = np.random.default_rng(1).standard_normal((SAMPLES, *shape)).astype(np.float32)
        np.savez(folder / "x.npz", x=x)
        onnx.save(floats, folder / "f.onnx")
        onnx.save(quantize(floats, {"x": x}, 4), folder / "q.onnx")
        command = [sys.executable, "-m", "onnx_ocs", "plan", str(folder / "q.onnx"), "--calib", str(folder / "x.npz")]
        command += ["--float", str(folder / "f.onnx"), "-o", str(folder / "p.json"), *options]
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return f"{cpu:.1f} CPU s, {time.perf_counter() - start:.1f} s, peak {after.ru_maxrss / 1024:.0f} MB so far"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--tensors", nargs="+", type=int, default=[100, 400])
    p.add_argument("--kind", nargs="+", default=["cnn", "transformer"], choices=["cnn", "transformer"])
    own, _, more = " ".join(sys.argv[1:]).partition(" -- ")
    a = p.parse_args(own.split())
    for kind in a.kind:
        for tensors in a.tensors:
            print(f"{kind}, {tensors} tensors: {measured(kind, tensors, more.split())}", flush=True)


if __name__ == "__main__":
    main()
