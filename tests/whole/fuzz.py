"""Damaged model files: what a broken disk, a broken exporter or an attacker may hand in.

    python tests/whole/fuzz.py --count 10000 [--seed 0] [FILE.onnx ...]

Each case damages one model (bits, length, or one field: types, shapes, names, wiring, attributes, external data),
and rewrites it in a process of its own, with a limit on time and memory; every eighth case has samples, and runs all
passes of the house.  Allowed are a result that onnx reads, and
`UserError` or `VerificationError`; anything else (another exception, a crash, a limit reached, a file left behind) is
a violation, and is printed with the seed that makes it again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, TensorProto

from onnx_ocs import api
from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.errors import UserError, VerificationError
from onnx_ocs.model.tensors import pack
from onnx_ocs.passes import Compensate, Reconstruct, Translate
from onnx_ocs.records.branches import RECORD as BRANCH
from onnx_ocs.records.history import RECORD
from onnx_ocs.records.layouts import LAYOUT
from onnx_ocs.records.steps import NOW, SCALE
from onnx_ocs.records.weights import REFITTED

ROOT = Path(__file__).resolve().parents[2]
SECONDS, MEMORY = 60, 4 << 30
EVERY, SAMPLES = 8, 16  # case with samples, and how many
ABSURD = [0, -1, 1, 3, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63)]
WORDS = ["", "x", "..", "/etc/passwd", "a" * 5000, "\u0000", "QuantizeLinear", "DequantizeLinear", "Conv", "If", "Loop"]
RECORDS = [LAYOUT, SCALE, NOW, REFITTED, BRANCH, RECORD]
FORGED = ["", "[" * 100_000, "[]", "3", "{}", '"x"', "null", "[NaN]", "[1e999]", "[0.5]", '[{"pass": "translate"}]']
PLACES = [(n, pack(np.asarray(p))) for n, p in ((1, [0]), (1 << 40, [0]), (2, [0, 1, 1]), (2, [7, -1]))]
PLACES.append((2, "eJw="))  # cut short
FORGED += [json.dumps({"original": "x", "axis": 1, "narrow": n, "origin": p, "level": p}) for n, p in PLACES]
NUMBERS = [0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e-45, 1e38]

Random = np.random.Generator
Damage = Callable[[ModelProto, Random], None]
Feed = dict[str, np.ndarray[Any, Any]]


def pick(rng: Random, items: Sequence[object]) -> object:
    return items[int(rng.integers(len(items)))] if len(items) else None


def tensors(m: ModelProto) -> list[TensorProto]:
    return [*m.graph.initializer, *(a.t for n in m.graph.node for a in n.attribute if a.type == AttributeProto.TENSOR)]


def names(m: ModelProto) -> list[str]:
    return [t for n in m.graph.node for t in (*n.input, *n.output)]


# ---- one field at a time --------------------------------------------------------------------------------------------


def wrong_type(m: ModelProto, rng: Random) -> None:
    t = pick(rng, tensors(m))
    if t is not None:
        t.data_type = int(pick(rng, [*range(27), 99, 1 << 30, -1]))


def wrong_dims(m: ModelProto, rng: Random) -> None:
    t = pick(rng, tensors(m))
    if t is None:
        return
    if len(t.dims) and rng.random() < 0.7:
        t.dims[int(rng.integers(len(t.dims)))] = int(pick(rng, ABSURD))
    else:
        t.dims.append(int(pick(rng, ABSURD)))


def wrong_values(m: ModelProto, rng: Random) -> None:
    small = [t for t in tensors(m) if t.data_type == TensorProto.FLOAT and 0 < len(t.raw_data) <= 64]
    t = pick(rng, small)
    if t is not None:
        values = np.frombuffer(t.raw_data, np.float32).copy()
        values[int(rng.integers(len(values)))] = pick(rng, NUMBERS)
        t.raw_data = values.tobytes()


def no_values(m: ModelProto, rng: Random) -> None:
    t = pick(rng, tensors(m))
    if t is not None:
        t.raw_data = t.raw_data[: int(rng.integers(len(t.raw_data) + 1))]


def wrong_name(m: ModelProto, rng: Random) -> None:
    """A tensor or node is called like another, or like nothing: duplicates, cycles, missing tensors."""
    n = pick(rng, m.graph.node)
    word = str(pick(rng, [*WORDS, *names(m)[:200], *(t.name for t in m.graph.initializer)]))
    kind = int(rng.integers(5))
    if kind == 0 and len(n.input):
        n.input[int(rng.integers(len(n.input)))] = word
    elif kind == 1 and len(n.output):
        n.output[int(rng.integers(len(n.output)))] = word
    elif kind == 2:
        n.name = word
    elif kind == 3 and len(m.graph.initializer):
        pick(rng, m.graph.initializer).name = word
    elif kind == 4:
        pick(rng, [*m.graph.input, *m.graph.output]).name = word


def cycle(m: ModelProto, rng: Random) -> None:
    k = int(rng.integers(len(m.graph.node)))
    early, late = m.graph.node[k], m.graph.node[int(rng.integers(k, len(m.graph.node)))]
    if len(early.input) and len(late.output):
        early.input[int(rng.integers(len(early.input)))] = late.output[0]


def missing(m: ModelProto, rng: Random) -> None:
    part = pick(rng, [m.graph.node, m.graph.initializer, m.graph.input, m.graph.output, m.opset_import])
    if len(part):
        del part[int(rng.integers(len(part)))]


def doubled(m: ModelProto, rng: Random) -> None:
    part = pick(rng, [m.graph.node, m.graph.initializer, m.graph.input, m.graph.output, m.opset_import])
    if len(part):
        part.append(part[int(rng.integers(len(part)))])


def wrong_arity(m: ModelProto, rng: Random) -> None:
    n = pick(rng, m.graph.node)
    ends = n.input if rng.random() < 0.7 else n.output
    if rng.random() < 0.6 and len(ends):
        del ends[int(rng.integers(len(ends))) :]
    else:
        ends.extend([str(pick(rng, [*WORDS[:2], *names(m)[:50]]))] * int(rng.integers(1, 20)))


def wrong_attribute(m: ModelProto, rng: Random) -> None:
    n = pick(rng, [n for n in m.graph.node if len(n.attribute)])
    if n is None:
        return
    a = n.attribute[int(rng.integers(len(n.attribute)))]
    kind = int(rng.integers(6))
    if kind == 0:
        a.i = int(pick(rng, ABSURD))
    elif kind == 1:
        a.type = int(rng.integers(0, 16))
    elif kind == 2 and len(a.ints):
        a.ints[int(rng.integers(len(a.ints)))] = int(pick(rng, ABSURD))
    elif kind == 3:
        del a.ints[:]
        a.ints.extend([int(pick(rng, ABSURD))] * int(rng.integers(9)))
    elif kind == 4:
        a.name = str(pick(rng, ["axis", "group", "perm", "strides", "pads", "block_size", "to", "transB", "alpha"]))
    else:
        a.Clear()


def new_attribute(m: ModelProto, rng: Random) -> None:
    n = pick(rng, m.graph.node)
    name = str(pick(rng, ["axis", "group", "perm", "strides", "pads", "block_size", "output_dtype", "transB", "beta"]))
    value = pick(rng, [int(pick(rng, ABSURD)), 0.5, [1, -1, 7], "text", float("nan"), [0.5]])
    n.attribute.append(onnx.helper.make_attribute(name, value))


def wrong_operator(m: ModelProto, rng: Random) -> None:
    n = pick(rng, m.graph.node)
    if rng.random() < 0.7:
        n.op_type = str(pick(rng, [*WORDS, *{k.op_type for k in m.graph.node}, "Relu", "MatMul", "Gemm", "Reshape"]))
    else:
        n.domain = str(pick(rng, ["com.microsoft", "nowhere", "ai.onnx.ml"]))


def wrong_version(m: ModelProto, rng: Random) -> None:
    if rng.random() < 0.3:
        m.ir_version = int(pick(rng, ABSURD))
    elif len(m.opset_import):
        m.opset_import[0].version = int(pick(rng, [*ABSURD, 1, 7, 10, 13, 19, 21, 23, 1000]))


def wrong_signature(m: ModelProto, rng: Random) -> None:
    v = pick(rng, [*m.graph.input, *m.graph.output])
    if v is None:
        return
    shape = v.type.tensor_type.shape
    kind = int(rng.integers(4))
    if kind == 0:
        v.type.Clear()
    elif kind == 1:
        v.type.tensor_type.elem_type = int(rng.integers(0, 30))
    elif kind == 2 and len(shape.dim):
        pick(rng, shape.dim).dim_value = int(pick(rng, ABSURD))
    else:
        shape.dim.add().dim_value = int(pick(rng, ABSURD))


def outside(m: ModelProto, rng: Random) -> None:
    """External data that is not there, not ours, or not so long."""
    t = pick(rng, m.graph.initializer)
    if t is None:
        return
    places = [
        "../secret.bin",
        "/etc/passwd",
        "link.bin",
        "up/../../secret.bin",
        "side.bin",
        "",
        ".",
        "\u0000",
        "no.bin",
    ]
    place = str(pick(rng, [*places, "up", "a" * 5000]))
    numbers = [*map(str, ABSURD), "", "x", "1e3", "4096", str(len(t.raw_data))]
    entries = {"location": place, "offset": str(pick(rng, numbers)), "length": str(pick(rng, numbers))}
    t.data_location = TensorProto.EXTERNAL
    if rng.random() < 0.8:
        t.ClearField("raw_data")
    for key, value in entries.items():
        if rng.random() < 0.8:
            t.external_data.add(key=key, value=value)


def wrong_record(m: ModelProto, rng: Random) -> None:
    """What a rewrite would have written into the file, forged."""
    n = pick(rng, [n for n in m.graph.node if n.op_type == "QuantizeLinear"] or m.graph.node)
    place = m if n is None or rng.random() < 0.2 else n
    place.metadata_props.add(key=str(pick(rng, RECORDS)), value=str(pick(rng, FORGED)))


DAMAGES: list[Damage] = [
    wrong_type, wrong_dims, wrong_values, no_values, wrong_name, wrong_name, cycle, missing, doubled, wrong_arity,
    wrong_attribute, wrong_attribute, new_attribute, wrong_operator, wrong_version, wrong_signature, outside, outside,
    wrong_record,
]  # fmt: skip


def damage(data: bytes, seed: int) -> tuple[str, bytes]:
    """What was done, and the damaged file."""
    rng = np.random.default_rng(seed)
    kind = rng.random()
    if kind < 0.05:
        return "truncated", data[: int(rng.integers(len(data)))]
    if kind < 0.07:
        return "noise", rng.bytes(int(rng.integers(2000)))
    if kind < 0.35:
        flipped = np.frombuffer(data, np.uint8).copy()
        for _ in range(int(rng.integers(1, 9))):
            # half of them near one end, where the graph's structure is rather than its weights
            at = int(len(data) * rng.random() ** (3 if rng.random() < 0.5 else 1)) % len(data)
            flipped[at if rng.random() < 0.5 else len(data) - 1 - at] ^= 1 << int(rng.integers(8))
        return "flipped bits", flipped.tobytes()
    model = onnx.load_from_string(data)
    done = []
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        act = DAMAGES[int(rng.integers(len(DAMAGES)))]
        try:
            act(model, rng)
        except (ValueError, TypeError, AttributeError):  # an earlier damage left nothing to do
            continue
        done.append(act.__name__)
    return ", ".join(done), model.SerializeToString()


def rewritten(source: Path, out: Path, verify: bool, calib: Sequence[Feed] | None) -> api.RewriteResult:
    if calib is None:
        return api.rewrite(source, out, verify=verify)
    return api.rewrite(source, out, calib, passes=[Translate(0.5), Reconstruct(), Compensate()], verify=verify)


# ---- one case -------------------------------------------------------------------------------------------------------


def attempt(folder: Path, verify: bool, calib: Sequence[Feed] | None = None) -> str:
    """Rewrite folder/in/model.onnx, with samples by all passes; what came of it, or the violation."""
    source, out = folder / "in" / "model.onnx", folder / "out" / "wide.onnx"
    out.parent.mkdir(exist_ok=True)
    try:
        result = rewritten(source, out, verify, calib)
    except UserError as e:
        if not str(e).strip():
            return "violation: an empty message"
        return "violation: a failed rewrite left files" if any(out.parent.iterdir()) else "refused"
    except VerificationError:
        return "not verified"
    except BaseException:
        return "violation: " + traceback.format_exc(limit=-4)
    if not out.is_file():
        return "violation: no output"
    onnx.load(out)
    return "rewritten" if result.changed else "unchanged"


def isolated(folder: Path, verify: bool, calib: Sequence[Feed] | None = None) -> str:
    """`attempt` in a process of its own, within the limits."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1), os.dup2(devnull, 2)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY + (8 << 30), MEMORY + (8 << 30)))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        signal.alarm(4 * SECONDS)
        try:
            os.write(writing, attempt(folder, verify, calib).encode()[:60000])
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as f:
        answer = f.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"violation: ended by signal {number} ({signal.Signals(number).name})"
    return answer or "violation: no answer"


def prepare(folder: Path, data: bytes) -> None:
    """A folder with the model, a side file, and what must not be read: a link, and a file outside."""
    (folder / "in" / "up").mkdir(parents=True)
    (folder / "secret.bin").write_bytes(b"\x01" * 100_000)
    (folder / "in" / "side.bin").write_bytes(b"\x01" * 100_000)
    (folder / "in" / "link.bin").symlink_to(folder / "secret.bin")
    (folder / "in" / "model.onnx").write_bytes(data)


def cases(files: Sequence[Path], count: int, seed: int) -> list[tuple[Path, int]]:
    """Which file is damaged with which seed."""
    return [(files[k % len(files)], seed * 1_000_000 + k) for k in range(count)]


@cache
def samples(path: Path) -> Sequence[Feed]:
    """Samples for the model before it was damaged."""
    return list(random_samples(onnx.load(path), SAMPLES, 0).batches())


def run_case(path: Path, seed: int) -> tuple[str, str]:
    """What was damaged, and what came of it."""
    what, data = damage(path.read_bytes(), seed)
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), data)
        return what, isolated(Path(name), seed % 4 == 0, samples(path) if seed % EVERY == 0 else None)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("files", nargs="*", type=Path)
    p.add_argument("--count", type=int, default=10_000)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--one", type=int, help="run one case, by its number, in this process")
    a = p.parse_args()
    files = a.files or sorted(f for f in (ROOT / "tests" / "data").rglob("*.onnx") if f.stat().st_size < 200_000)
    files = a.files or [*files, ROOT / "models" / "digits.w8a2.onnx"]
    todo = cases(files, a.count if a.one is None else a.one + 1, a.seed)
    if a.one is not None:
        path, seed = todo[-1]
        what, data = damage(path.read_bytes(), seed)
        with tempfile.TemporaryDirectory() as name:
            prepare(Path(name), data)
            print(path.name, what)
            source, out = Path(name) / "in" / "model.onnx", Path(name) / "out.onnx"
            rewritten(source, out, seed % 4 == 0, samples(path) if seed % EVERY == 0 else None)
        return 0
    tally: Counter[str] = Counter()
    start = time.perf_counter()
    for k, (path, seed) in enumerate(todo):
        what, answer = run_case(path, seed)
        tally[answer.split(":")[0]] += 1
        if answer.startswith("violation"):
            print(f"--- {k}: {path.name}, {what}\n{answer}", flush=True)
        if (k + 1) % 500 == 0 or k + 1 == len(todo):
            found = ", ".join(f"{n} {w}" for w, n in sorted(tally.items()))
            print(f"{k + 1} files in {time.perf_counter() - start:.0f} s: {found}", flush=True)
    return 1 if tally["violation"] else 0


if __name__ == "__main__":
    sys.exit(main())
