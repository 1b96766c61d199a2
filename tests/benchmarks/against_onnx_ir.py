"""Our reading, editing and writing of graphs beside the package onnx-ir: time, peak memory, bytes of what is untouched.

    pip install onnx-ir
    python tests/benchmarks/against_onnx_ir.py [MODEL.onnx ...] [--nodes 2000 20000] [--megabytes 500]

Both do the same: load; at every tenth node give each constant input a constant of its own (the same values, taken along
an axis), put an Identity behind the output, write metadata on the node; save.  Then a walk over the graph, a copy, the
bytes for a session.  The ways alternate, each time in a fresh process; in brackets, onnx-ir's time by this one.
(A script called onnx_ir.py would hide the package from the scripts beside it.)  What is lost: `onnx_ir_losses.py`.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from graph_work import synthetic
from large import build as build_large
from large import peak

KEY = "onnx_ocs.passes"
WAYS = ("onnx-ir", "ours, no fsync", "ours")  # onnx.save, which onnx-ir uses, does not wait for the disk
PHASES = ("load", "edit", "save", "walk", "copy", "bytes")
Mark = Callable[[str], None]
After = tuple[Callable[[], object], ...]  # what is done for the phases behind the first three


def ours(source: Path, out: Path, mark: Mark) -> After:
    """The work with onnx_ocs."""
    from onnx_ocs.model import files
    from onnx_ocs.model.edit import EditableGraph
    from onnx_ocs.model.nodes import attribute

    model = files.load_model(source)
    graph = EditableGraph(model)
    mark("load")
    for node in graph.nodes[3::10]:
        for k, t in enumerate(node.input):
            if t in graph.initializers and t not in graph.inputs:
                dims = graph.initializers[t].dims
                value = graph.take(t, 0, np.arange(dims[0])) if dims else graph.constant(t)
                assert value is not None
                graph.set_input(node, k, graph.add_initializer(t, value))
        readers = [] if node.output[0] in graph.outputs else graph.readers(node.output[0])
        if readers:
            end = graph.add_node("Identity", [node.output[0]], graph.fresh(node.output[0]))
            for r in readers:
                for k in [k for k, t in enumerate(r.input) if t == node.output[0]]:
                    graph.set_input(r, k, end)
        graph.touched[id(node)] = node
    graph.commit(lambda n: n.metadata_props.add(key=KEY, value="bench"))
    mark("edit")
    files.save_model(model, out, source)
    mark("save")

    def walk() -> list[object]:
        producer, nodes = graph.producer.get, graph.nodes
        return [(graph.readers(n.output[0]), attribute(n, "axis"), [producer(t) for t in n.input]) for n in nodes]

    return walk, lambda: onnx.ModelProto().CopyFrom(model), model.SerializeToString


def theirs(source: Path, out: Path, mark: Mark) -> After:
    """The work with onnx-ir, in its own ways: values know their readers, tensors are lazy or mapped."""
    ir: Any = importlib.import_module("onnx_ir")
    model = ir.load(source)
    graph = model.graph
    names = {v.name for v in (*graph.inputs, *graph.initializers.values())}
    names |= {o.name for n in graph.all_nodes() for o in n.outputs}
    sizes = [v.const_value.nbytes for v in graph.initializers.values() if isinstance(v.const_value, ir.ExternalTensor)]
    least, side = min(sizes, default=0), out.name + ".data" if sizes else None
    turns: dict[str, Iterator[int]] = defaultdict(itertools.count)
    mark("load")

    def taken(tensor: Any) -> Any:
        found = tensor.numpy()
        return ir.tensor(np.take(found, np.arange(len(found)), axis=0) if found.ndim else found)

    def fresh(name: str) -> str:
        return next(n for n in (f"{name}_{k}" for k in turns[name]) if n not in names)

    for node in list(graph)[3::10]:
        for k, v in enumerate(node.inputs):
            if v is not None and v.is_initializer() and not v.is_graph_input():
                made = functools.partial(taken, v.const_value)
                tensor = ir.LazyTensor(made, dtype=v.const_value.dtype, shape=v.const_value.shape)
                value = ir.Value(name=fresh(v.name), type=v.type, shape=v.shape, const_value=tensor)
                graph.register_initializer(value)
                node.replace_input_with(k, value)
                if not v.uses() and not v.is_graph_output():
                    del graph.initializers[v.name]
        readers = [] if node.outputs[0].is_graph_output() else list(node.outputs[0].uses())
        if readers:
            end = ir.Value(name=fresh(node.outputs[0].name))
            for use in readers:
                use.node.replace_input_with(use.idx, end)
            graph.insert_after(node, ir.node("Identity", [node.outputs[0]], outputs=[end], name=end.name))
        node.metadata_props[KEY] = "bench"
    mark("edit")
    ir.save(model, out, external_data=side, size_threshold_bytes=least - 1)
    mark("save")

    def walk() -> list[object]:
        named = ((n, n.outputs[0].uses(), n.attributes.get_int("axis")) for n in graph)
        return [(uses, axis, [v and v.producer() for v in n.inputs]) for n, uses, axis in named]

    return walk, model.clone, lambda: ir.to_proto(model).SerializeToString()


def work(way: str, source: Path, out: Path) -> None:
    """One way in this process: seconds of each phase, most memory above what the imports took."""
    if way != "ours":
        os.fsync = lambda fd: None
    act = theirs if way == "onnx-ir" else ours
    with tempfile.TemporaryDirectory() as folder:  # first calls
        onnx.save(synthetic(100), Path(folder) / "in.onnx")
        act(Path(folder) / "in.onnx", Path(folder) / "out.onnx", lambda name: None)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    marks, empty, last = dict.fromkeys(PHASES, 0.0), peak(), time.perf_counter()

    def mark(name: str) -> None:
        nonlocal last
        marks[name], last = time.perf_counter() - last, time.perf_counter()

    after = act(source, out, mark)
    marks["peak"] = peak() - empty
    for name, task in zip(PHASES[3:], after, strict=True):
        if name == "bytes" and source.with_name(source.name + ".data").exists():
            continue  # a session takes the path
        last = time.perf_counter()
        task()
        mark(name)
    print(json.dumps(marks))


def parts(path: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Digests of the initializers' values, wherever they lie, and bytes of the nodes, by name."""
    model, weights = onnx.load(path), {}
    for t in model.graph.initializer:
        known = f"{t.data_type} {t.dims}".encode() + t.raw_data
        weights[t.name] = hashlib.sha256(known if t.HasField("raw_data") else t.SerializeToString()).digest()
    return weights, {n.output[0]: n.SerializeToString() for n in model.graph.node}


def compare(path: Path, folder: Path, runs: int) -> None:
    """A row for each way."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(runs):
        for way, measured in found.items():
            (folder / way).mkdir(exist_ok=True)
            command = [sys.executable, __file__, "--work", way, str(path), str(folder / way / "out.onnx")]
            marks = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            measured.append(marks | {"all": sum(marks[k] for k in PHASES[:3])})
    middle = {way: {k: float(np.median([m[k] for m in all_])) for k in all_[0]} for way, all_ in found.items()}
    before = parts(path)
    for way, marks in middle.items():
        base, after = middle[WAYS[0]], parts(folder / way / "out.onnx")
        cells = [f"{marks[k]:.3f} ({base[k] / marks[k]:.1f})" if marks[k] else "" for k in ("all", *PHASES)]
        there = before[0].keys() & after[0].keys()
        cells += [f"{marks['peak']:.0f}", f"{sum(before[0][t] == after[0][t] for t in there)} of {len(there)}"]
        nodes = sum(after[1].get(name) == n for name, n in before[1].items())
        print(f"| {path.name} | {way} | {' | '.join(cells)} | {nodes} |", flush=True)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("models", nargs="*", type=Path)
    p.add_argument("--nodes", nargs="*", type=int, default=[])
    p.add_argument("--megabytes", nargs="*", type=int, default=[], help="synthetic models with one side file, from 300")
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.work:
        return work(a.work[0], Path(a.work[1]), Path(a.work[2]))
    print(f"| model | way | all | {' | '.join(PHASES)} | peak MB | weights same | nodes same |\n|{'---|' * 12}")
    with tempfile.TemporaryDirectory() as name:
        for n in a.nodes:
            onnx.save(synthetic(n), Path(name) / f"synthetic_{n}.onnx")
        for size in a.megabytes:  # 256 MB of them are the embedding
            build_large(Path(name) / f"side_{size}.onnx", (size - 256) / 1024, 16)
        for path in [*a.models, *Path(name).glob("*.onnx")]:
            compare(path, Path(name), a.runs)


if __name__ == "__main__":
    main()
