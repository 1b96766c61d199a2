"""Peak memory of the graph work on a model that protobuf cannot hold: load, match, decide, rewrite, check, save.

    python tests/benchmarks/large.py --gigabytes 4 --folder /a/folder/with/12GB
    python tests/benchmarks/large.py --gigabytes 2.3 --verify      the whole `rewrite`, with its verification

Makes a synthetic transformer-like model (an embedding, then MatMul-Relu and MatMul-Gelu layers of `--weight` MB of int8
each, external data in one file), rewrites it in a fresh process, and prints time, peak memory (VmHWM, which counts
mapped pages of files too) and the bound: 1.3 times the largest rewritten weight plus 300 MB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

MEGA = 1 << 20
WIDTH = 4096


def build(path: Path, gigabytes: float, weight: int) -> None:
    """Write the model; its weights never exist in memory as a whole."""
    rng = np.random.default_rng(0)
    hidden = weight * MEGA // WIDTH
    layers = max(2, int(gigabytes * 1024 / weight))
    g = helper.make_graph([], "large", [], [])
    g.input.append(helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 4]))
    tile = rng.integers(-127, 128, 16 * MEGA, np.int8)
    side = path.with_name(path.name + ".data").open("wb")

    def outside(name: str, kind: int, dims: list[int], data: np.ndarray, repeat: int) -> str:
        offset = side.tell()
        for _ in range(repeat):
            side.write(data.data)
        t = g.initializer.add(name=name, data_type=kind, dims=dims, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", side.name), ("offset", offset), ("length", side.tell() - offset)):
            t.external_data.add(key=key, value=Path(str(value)).name if key == "location" else str(value))
        return name

    def const(name: str, value: np.ndarray) -> str:
        g.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(op: str, inputs: list[str], out: str, domain: str = "") -> str:
        g.node.append(helper.make_node(op, inputs, [out], name=out, domain=domain))
        return out

    def quantized(t: str, zero: str) -> str:
        return add("DequantizeLinear", [add("QuantizeLinear", [t, scale, zero], t + "_q"), scale, zero], t + "_dq")

    scale, low, middle = const("s", np.float32(0.01)), const("z0", np.uint8(0)), const("z128", np.uint8(128))
    zero = const("wz", np.int8(0))
    rows = 16 * 1024
    table = rng.standard_normal(MEGA).astype(np.float32)
    outside("table", TensorProto.FLOAT, [rows, WIDTH], table, rows * WIDTH // MEGA)
    t, size = quantized(add("Gather", ["table", "ids"], "embedded"), middle), WIDTH
    for k in range(layers):
        to = hidden if size == WIDTH else WIDTH
        w = outside(f"w{k}", TensorProto.INT8, [size, to], tile, size * to // tile.size)
        w_scale = const(f"ws{k}", np.float32(1 / (73 * np.sqrt(size))))
        w = add("DequantizeLinear", [w, w_scale, zero], f"w{k}_dq")
        b = const(f"b{k}", rng.standard_normal(to).astype(np.float32))
        y = add("Add", [add("MatMul", [t, w], f"m{k}"), b], f"a{k}")
        t = quantized(add("Relu", [y], f"r{k}"), low) if k % 2 else quantized(add("Gelu", [y], f"r{k}"), low)
        size = to
    side.close()
    g.output.append(helper.make_tensor_value_info(t, TensorProto.FLOAT, [1, 4, size]))
    model = helper.make_model(g, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    path.write_bytes(model.SerializeToString())


def peak() -> int:
    """Most memory that this process has had resident, MB."""
    return status("VmHWM")


def status(name: str) -> int:
    """What the system says of this process's memory, MB."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) // 1024


def work(source: Path, out: Path) -> None:
    """The graph work, in this process."""
    from onnx_ocs.calibration.context import Context
    from onnx_ocs.model import files, tensors
    from onnx_ocs.passes.translate import Translate
    from onnx_ocs.passmanager import run_passes

    empty = peak()
    start = time.perf_counter()
    new, results = run_passes(files.load_model(source), [Translate()], Context())
    middle, most = time.perf_counter(), peak()
    rewritten = [tensors.stored_size(t) for t in new.graph.initializer if tensors.is_taken(t)]
    files.save_model(new, out, source)
    seconds = time.perf_counter() - start
    applied = sum(e["status"] == "applied" for e in results["translate"].regions)
    largest = max(rewritten) / MEGA
    written = sum(f.stat().st_size for f in out.parent.iterdir())
    print(f"input {sum(f.stat().st_size for f in source.parent.iterdir()) / 1e9:.2f} GB, output {written / 1e9:.2f} GB")
    print(f"{applied} regions, {len(rewritten)} weights rewritten, {sum(rewritten) / 1e9:.2f} GB of them")
    print(f"graph work {middle - start:.1f} s, saving {seconds - (middle - start):.1f} s")
    print(f"peak memory {peak()} MB ({empty} MB after the imports, {most} MB before saving)")
    print(f"bound       {1.3 * largest + 300:.0f} MB (largest rewritten weight {largest:.0f} MB)")
    if peak() > 1.3 * largest + 300:
        sys.exit("above the bound")


def verified(source: Path, out: Path) -> None:
    """The whole `rewrite`, in this process; onnxruntime maps the weights, and holds what it makes of them."""
    import onnx_ocs

    start, own = time.perf_counter(), [0]

    def watch() -> None:
        while True:
            own[0] = max(own[0], status("RssAnon"))
            time.sleep(0.01)

    threading.Thread(target=watch, daemon=True).start()
    result = onnx_ocs.rewrite(source, out)
    assert result.verification is not None
    print(f"input {sum(f.stat().st_size for f in source.parent.iterdir()) / 1e9:.2f} GB, ", end="")
    print(f"output {sum(f.stat().st_size for f in out.parent.iterdir()) / 1e9:.2f} GB")
    print(f"{result.verification.verdict}: {result.verification.translated} wide quantizers, ", end="")
    print(f"{result.verification.exact.values:,} values compared, {time.perf_counter() - start:.0f} s in all")
    print(f"peak memory {peak()} MB, mapped weights counted, at most {own[0]} MB without")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--gigabytes", type=float, default=4)
    p.add_argument("--weight", type=int, default=256, help="MB of each weight")
    p.add_argument("--folder", type=Path, help="where the models are made; default: the temporary folder")
    p.add_argument("--verify", action="store_true", help="verify as well")
    p.add_argument("--work", nargs=2, type=Path, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.work:
        (verified if a.verify else work)(*a.work)
        return
    with tempfile.TemporaryDirectory(dir=a.folder) as name:
        for part in ("in", "out"):
            (Path(name) / part).mkdir()
        source, out = Path(name) / "in" / "large.onnx", Path(name) / "out" / "wide.onnx"
        build(source, a.gigabytes, a.weight)
        command = [sys.executable, __file__, "--work", source, out, *["--verify"] * a.verify]
        sys.exit(subprocess.run(command).returncode)


if __name__ == "__main__":
    main()
