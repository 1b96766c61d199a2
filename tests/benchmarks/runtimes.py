"""Latency against multiply-accumulates in every runtime that is installed here, and how close each is to onnxruntime.

    python tests/benchmarks/runtimes.py ORIGINAL.onnx REWRITTEN.onnx [...] [--runs 20]

A row for each rewritten file, a column for each runtime: onnxruntime; OpenVINO's CPU plugin (`pip install openvino`);
OpenCV's dnn (`pip install opencv-python-headless`); tract (`pip install tract`); onnxruntime-web (`npm install
onnxruntime-web` in the folder that it is started from, and `node`).  What is not installed is left out.  The models
take turns; a ratio is that of the shortest runs, wall time, one thread where the runtime can be told.  Beside it the
SQNR of the first output against onnxruntime's, of the original and of the rewritten file, where the runtime gives it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.measurement.cost import cost
from onnx_ocs.runtime.session import Session

Array = np.ndarray[Any, Any]
Runner = Callable[[dict[str, Array]], Array | None]  # runs once; the first output where there is one
WEB = """
const ort = require('onnxruntime-web');
(async () => {
  ort.env.wasm.numThreads = 1; ort.env.logLevel = 'error';
  const [path, shapes, runs] = [process.argv[2], JSON.parse(process.argv[3]), Number(process.argv[4])];
  const options = {executionProviders: ['wasm'], graphOptimizationLevel: 'all'};
  const session = await ort.InferenceSession.create(path, options);
  const feeds = {};
  for (const [k, d] of Object.entries(shapes))
    feeds[k] = new ort.Tensor('float32', new Float32Array(d.reduce((a, b) => a * b, 1)).fill(0.5), d);
  let best = Infinity;
  for (let i = 0; i < runs; i++) {
    const t = performance.now(); await session.run(feeds); best = Math.min(best, performance.now() - t);
  }
  console.log(JSON.stringify(best));
})();
"""


def in_onnxruntime(path: Path) -> Runner:
    """One thread, integer kernels."""
    session = Session(onnx.load(path), "enable_all", threads=1, precise=False)
    return lambda feed: session.run(feed)[session.outputs[0]]


def in_openvino(path: Path) -> Runner | None:
    """The CPU plugin, one thread, float32 where it is not quantized."""
    if find_spec("openvino") is None:
        return None
    import openvino as ov

    options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(ov.Core().read_model(path), "CPU", options)
    return lambda feed: np.asarray(compiled(feed)[0])


def in_opencv(path: Path) -> Runner | None:
    """OpenCV's dnn; models with one input."""
    if find_spec("cv2") is None:
        return None
    import cv2

    cv2.setNumThreads(1)
    net = cv2.dnn.readNetFromONNX(str(path))

    def run(feed: dict[str, Array]) -> Array:
        (value,) = feed.values()
        net.setInput(value)
        return np.asarray(net.forward())

    return run


def in_tract(path: Path) -> Runner | None:
    """The Python package."""
    if find_spec("tract") is None:
        return None
    import tract

    made = tract.onnx().load(str(path))
    for k, i in enumerate(onnx.load(path, load_external_data=False).graph.input):
        sizes = ",".join(str(d.dim_value or 1) for d in i.type.tensor_type.shape.dim)
        made.set_input_fact(k, f"{sizes},f32")
    runnable = made.into_model().into_runnable()
    return lambda feed: np.asarray(runnable.run(list(feed.values()))[0].to_numpy())


def in_the_web(path: Path, shapes: dict[str, list[int]], runs: int) -> float | None:
    """Seconds of the shortest run in onnxruntime-web; None where it is not installed."""
    if shutil.which("node") is None or not Path("node_modules/onnxruntime-web").exists():
        return None
    with tempfile.NamedTemporaryFile("w", suffix=".cjs", dir=".", delete=False) as script:
        script.write(WEB)
    try:
        call = ["node", script.name, str(path.resolve()), json.dumps(shapes), str(runs)]
        return float(subprocess.run(call, capture_output=True, text=True, check=True).stdout) / 1e3
    finally:
        Path(script.name).unlink()


RUNTIMES: dict[str, Callable[[Path], Runner | None]] = {
    "onnxruntime": in_onnxruntime, "OpenVINO": in_openvino, "OpenCV": in_opencv, "tract": in_tract,
}  # fmt: skip


def shortest(runners: Sequence[Runner], feed: dict[str, Array], runs: int) -> list[float]:
    """Seconds of the shortest run of each; they take turns."""
    best = [np.inf] * len(runners)
    for _ in range(runs + 1):
        for k, run in enumerate(runners):
            start = time.perf_counter()
            run(feed)
            best[k] = min(best[k], time.perf_counter() - start)
    return best


def sqnr(want: Array, got: Array | None) -> str:
    """Decibels, in a table."""
    if got is None or got.size != want.size:
        return "–"
    noise = float(((want - got.reshape(want.shape).astype(np.float64)) ** 2).sum())
    return "∞" if noise == 0 else f"{10 * np.log10(float((want.astype(np.float64) ** 2).sum()) / noise):.1f}"


def column(name: str, paths: Sequence[Path], feed: dict[str, Array], truth: Sequence[Array], runs: int) -> list[str]:
    """The cells of one runtime: of each rewritten file the ratio of time, and decibels before and after."""
    try:
        runners = [RUNTIMES[name](p) for p in paths]
        given = [r for r in runners if r is not None]
        if len(given) < len(paths):
            return []
        best = shortest(given, feed, runs)
        db = [sqnr(t, r(feed)) for t, r in zip(truth, given, strict=True)]
    except Exception as e:  # whatever a runtime raises: this is its finding
        return [f"{type(e).__name__}"] * (len(paths) - 1)
    return [f"x {b / best[0]:.2f} ({db[0]} → {d} dB)" for b, d in zip(best[1:], db[1:], strict=True)]


def main(arguments: Sequence[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--runs", type=int, default=20)
    a = parser.parse_args(arguments)
    models = [onnx.load(p) for p in a.models]
    feed = dict(next(random_samples(models[0], 1, 0, {}).batches(1, 1)))
    shapes = {k: list(v.shape) for k, v in feed.items()}
    truth = [Session(m, "disable_all").run(feed)[m.graph.output[0].name] for m in models]
    macs = [cost(m, shapes, kernels=False).macs for m in models]
    table = {n: column(n, a.models, feed, truth, a.runs) for n in RUNTIMES}
    web = [in_the_web(p, shapes, a.runs) for p in a.models]
    if web[0] is not None:
        table["web"] = [f"x {(w or np.nan) / web[0]:.2f}" for w in web[1:]]
    shown = {n: cells for n, cells in table.items() if cells}
    print(f"| file | MACs | {' | '.join(shown)} |\n|---|---|{'---|' * len(shown)}")
    for k, path in enumerate(a.models[1:]):
        cells = " | ".join(cells[k] for cells in shown.values())
        print(f"| {path.name} | x {macs[k + 1] / macs[0]:.2f} | {cells} |")


if __name__ == "__main__":
    main(sys.argv[1:])
