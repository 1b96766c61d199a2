"""Time of the graph work of `rewrite` against graph tools that read, transform and write the same files.

    pip install '.[benchmark]' && python tests/benchmarks/peers.py [MODEL.onnx ...]

Every tool reads the file and writes one: `rewrite` without calibration and verification (load, match, decide, rewrite,
check, save), `onnxslim.slim`, `onnxsim.simplify`.  They do not do the same; the table says what a graph pass over
the file costs.  Runs are interleaved, each in a process of its own without the imports; the table has medians of wall
time, and their ratios to `rewrite` in wall time and in CPU time, which other work on the machine disturbs less.
Without files, on the synthetic models.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from graph_work import synthetic
from onnx import TensorProto, helper, numpy_helper

WORK = {
    "rewrite": """
from onnx_ocs.model import files
from onnx_ocs.passes import Context, Translate, run_passes
def work(source, out):
    new, _ = run_passes(files.load_model(source), [Translate()], Context())
    files.save_model(new, out, source)
""",
    "onnxslim": """
import onnxslim
def work(source, out):
    onnxslim.slim(source, out)
""",
    "onnxsim": """
import onnx, onnxsim
def work(source, out):
    new, _ = onnxsim.simplify(onnx.load(source))
    onnx.save(new, out)
""",
}
TIMED = """
import sys, time
start = time.perf_counter(), time.process_time()
work(sys.argv[1], sys.argv[2])
print("seconds", time.perf_counter() - start[0], time.process_time() - start[1])
"""


def transformer(layers: int = 12, width: int = 768) -> onnx.ModelProto:
    """A QDQ transformer encoder: attention and MLP with int8 weights, LayerNormalization and Gelu in float."""
    rng = np.random.default_rng(0)
    g = helper.make_graph([], "transformer", [], [])
    g.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 128, width]))

    def const(name: str, value: np.ndarray) -> str:
        g.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(op: str, inputs: list[str], out: str, **attributes: object) -> str:
        g.node.append(helper.make_node(op, inputs, [out], name=out, **attributes))
        return out

    scale, zero = const("s", np.float32(0.02)), const("z", np.uint8(128))

    def quantized(t: str) -> str:
        return add("DequantizeLinear", [add("QuantizeLinear", [t, scale, zero], t + "_q"), scale, zero], t + "_dq")

    def dense(t: str, name: str, to: int, size: int) -> str:
        w = const(name + "_w", rng.integers(-127, 128, (size, to), np.int8))
        s = const(name + "_s", np.full(to, 1 / (73 * np.sqrt(size)), np.float32))
        zeros = const(name + "_z", np.zeros(to, np.int8))
        w = add("DequantizeLinear", [w, s, zeros], name + "_wdq", axis=1)
        b = const(name + "_b", rng.standard_normal(to).astype(np.float32))
        return add("Add", [add("MatMul", [t, w], name), b], name + "_o")

    def norm(t: str, name: str) -> str:
        ones, zeros = const(name + "_g", np.ones(width, np.float32)), const(name + "_b", np.zeros(width, np.float32))
        return add("LayerNormalization", [t, ones, zeros], name)

    heads = const("heads", np.asarray([0, 0, 12, width // 12], np.int64))
    flat = const("flat", np.asarray([0, 0, width], np.int64))
    t = "x"
    for k in range(layers):
        x = quantized(norm(t, f"l{k}_n1"))
        q, key, v = (add("Reshape", [dense(x, f"l{k}_{p}", width, width), heads], f"l{k}_{p}r") for p in "qkv")
        q, v = (
            add(
                "Transpose",
                [
                    a,
                ],
                a + "t",
                perm=[0, 2, 1, 3],
            )
            for a in (q, v)
        )
        key = add("Transpose", [key], key + "t", perm=[0, 2, 3, 1])
        a = add("Softmax", [add("MatMul", [q, key], f"l{k}_qk")], f"l{k}_a", axis=-1)
        a = add("Transpose", [add("MatMul", [a, v], f"l{k}_av")], f"l{k}_avt", perm=[0, 2, 1, 3])
        a = quantized(add("Reshape", [a, flat], f"l{k}_c"))
        t = add("Add", [t, dense(a, f"l{k}_p", width, width)], f"l{k}_r1")
        h = add("Gelu", [dense(quantized(norm(t, f"l{k}_n2")), f"l{k}_up", 4 * width, width)], f"l{k}_gelu")
        t = add("Add", [t, dense(quantized(h), f"l{k}_down", width, 4 * width)], f"l{k}_r2")
    g.output.append(helper.make_tensor_value_info(t, TensorProto.FLOAT, ["N", 128, width]))
    return helper.make_model(g, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def seconds(tool: str, source: Path, out: Path) -> list[float] | None:
    """Wall and CPU time of one run in a process of its own; None when it failed."""
    done = subprocess.run([sys.executable, "-c", WORK[tool] + TIMED, source, out], capture_output=True, text=True)
    line = next((x for x in reversed(done.stdout.splitlines()) if x.startswith("seconds ")), None)
    if done.returncode or line is None:
        print(f"{tool} failed on {source.name}: {(done.stderr.strip().splitlines() or ['?'])[-1][:200]}")
        return None
    return [float(x) for x in line.split()[1:]]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("models", nargs="*", type=Path)
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--nodes", type=int, default=5000, help="nodes of the synthetic residual network; 0: none")
    p.add_argument("--layers", type=int, default=12, help="layers of the synthetic transformer; 0: none")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = list(a.models)
        if a.layers:
            paths.append(Path(folder) / "transformer.onnx")
            onnx.save(transformer(a.layers), paths[-1])
        if a.nodes:
            paths.append(Path(folder) / "residual.onnx")
            onnx.save(synthetic(a.nodes), paths[-1])
        print(
            f"{'model':24} {'nodes':>7} {'MB':>7}"
            + "".join(f" {t + ' s':>12}" for t in WORK)
            + "   ratio to rewrite (CPU time)"
        )
        for path in paths:
            times: dict[str, list[list[float]]] = {t: [] for t in WORK}
            for _ in range(a.runs):
                for tool, found in times.items():
                    s = seconds(tool, path, Path(folder) / "out.onnx")
                    if s is not None:
                        found.append(s)
            median = {t: np.median(v, axis=0) if v else np.full(2, np.nan) for t, v in times.items()}
            nodes = len(onnx.load(path, load_external_data=False).graph.node)
            row = f"{path.name:24} {nodes:7} {path.stat().st_size / 1e6:7.1f}"
            row += "".join(f" {v[0]:12.3f}" for v in median.values())
            ratios = {t: v / median["rewrite"] for t, v in median.items() if t != "rewrite"}
            print(row + "   " + ", ".join(f"{t} {v[0]:.2f} ({v[1]:.2f})" for t, v in ratios.items()))


if __name__ == "__main__":
    main()
