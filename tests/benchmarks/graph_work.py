"""Time of the graph work: load, match, decide, rewrite, check, save - without calibration and verification.

    python tests/benchmarks/graph_work.py MODEL.onnx [...]      a row for each model
    python tests/benchmarks/graph_work.py --nodes 5000 20000    synthetic residual networks of about so many nodes

Quote ratios between rows of one run: absolute times depend on the machine (ms / node are of CPU time).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_ocs.calibration.context import Context
from onnx_ocs.model import files
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import run_passes


def synthetic(nodes: int) -> onnx.ModelProto:
    """A chain of quantized residual blocks (20 nodes each): conv-relu-conv, Add, Relu, all read wide."""
    rng = np.random.default_rng(0)
    g = helper.make_graph([], "chain", [], [])
    g.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 8, 8]))

    def const(name: str, value: np.ndarray) -> str:
        g.initializer.append(numpy_helper.from_array(value, name))
        return name

    scale, zero = const("s", np.float32(0.05)), const("z", np.uint8(0))
    w_scale, w_zero = const("ws", np.full(8, 0.01, np.float32)), const("wz", np.zeros(8, np.int8))
    b_scale = const("bs", np.full(8, np.float32(0.05) * np.float32(0.01), np.float32))

    def add(op: str, inputs: list[str], out: str, **attrs: object) -> str:
        g.node.append(helper.make_node(op, inputs, [out], name=out, **attrs))
        return out

    def quantized(t: str) -> str:
        return add("DequantizeLinear", [add("QuantizeLinear", [t, scale, zero], t + "_q"), scale, zero], t + "_dq")

    def conv(t: str, name: str) -> str:
        w = const(name + "_w", rng.integers(-127, 128, (8, 8, 3, 3), np.int8))
        b = const(name + "_b", rng.integers(-1000, 1000, 8, np.int32))
        w = add("DequantizeLinear", [w, w_scale, w_zero], name + "_wdq", axis=0)
        b = add("DequantizeLinear", [b, b_scale], name + "_bdq", axis=0)
        return add("Conv", [t, w, b], name, pads=[1, 1, 1, 1])

    t, k = quantized("x"), 0
    while len(g.node) < nodes:
        a = quantized(add("Relu", [conv(t, f"c{k}a")], f"r{k}a"))
        total = add("Add", [conv(a, f"c{k}b"), t], f"add{k}")
        t, k = quantized(add("Relu", [total], f"r{k}b")), k + 1
    g.output.append(helper.make_tensor_value_info(t, TensorProto.FLOAT, [1, 8, 8, 8]))
    return helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def measure(path: Path, out: Path) -> tuple[int, int, float, float]:
    """Nodes before, regions applied, seconds, seconds of CPU time."""
    start, busy = time.perf_counter(), time.process_time()
    model = files.load_model(path)
    new, results = run_passes(model, [Translate()], Context())
    files.save_model(new, out)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    applied = sum(e["status"] == "applied" for e in results["translate"].regions)
    return len(model.graph.node), applied, seconds, busy


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("models", nargs="*", type=Path)
    p.add_argument("--nodes", nargs="*", type=int, default=[])
    p.add_argument("--runs", type=int, default=3)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = list(a.models)
        for n in a.nodes:
            paths.append(Path(folder) / f"synthetic_{n}.onnx")
            onnx.save(synthetic(n), paths[-1])
        print(f"{'model':32} {'nodes':>8} {'regions':>8} {'seconds (median)':>18} {'CPU s':>8} {'ms / node':>10}")
        for path in paths:
            rows = [measure(path, Path(folder) / "out.onnx") for _ in range(a.runs)]
            nodes, applied = rows[0][:2]
            seconds, busy = np.median([r[2:] for r in rows], axis=0)
            print(f"{path.name:32} {nodes:8} {applied:8} {seconds:18.3f} {busy:8.2f} {1e3 * busy / nodes:10.3f}")


if __name__ == "__main__":
    main()
