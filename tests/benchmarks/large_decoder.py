"""Peak memory of a whole `rewrite`, samples and proof included, of a decoder whose weights fill a side file.

    python tests/benchmarks/large_decoder.py --gigabytes 3 --folder /a/folder/with/8GB
    python tests/benchmarks/large_decoder.py --gigabytes 1 --width 2048 -- --passes translate

Makes a decoder of the Llama family with weights of int8 in one side file (blocks of RMSNorm, causal attention and a
gated MLP; a float embedding; a head), and samples.  Runs the command in a process of its own, with what stands behind
`--`.  Samples the memory of it and of its children, and prints the peaks by what it was doing: anonymous memory, every
50 ms, and every half second all pages, those of mapped files too, each once however often it is mapped.  The system
takes back pages of files when it needs them.  Fails where anonymous memory exceeds 6 GB.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

MEGA = 1 << 20
WORDS = 32_000
HEAD = 128  # channels of a head
INNER = 2.6875  # channels of the MLP for each of the residual stream: 11,008 of 4,096
BOUND = 6e9  # bytes
# the command, which says ten times a second what it is doing
OFTEN = "from onnx_ocs.cli import main, outputs; outputs.SECONDS = 0.1; main()"


class Maker:
    """Builds the model; its weights never exist in memory as a whole."""

    def __init__(self, path: Path, width: int, tokens: int) -> None:
        self.width, self.inner, self.tokens = width, int(width * INNER), tokens
        self.rng = np.random.default_rng(0)
        self.tile = np.clip(np.rint(self.rng.standard_normal(16 * MEGA + 4099) * 32), -127, 127).astype(np.int8)
        self.path, self.side = path, path.with_name(path.name + ".data").open("wb")
        self.graph = helper.make_graph([], "decoder", [], [])
        self.const("wz", np.int8(0))
        self.const("middle", np.uint8(128))
        self.const("low", np.uint8(0))
        self.const("two", np.float32(2))
        self.const("epsilon", np.float32(1e-5))
        self.const("last", np.array([-1], np.int64))

    def const(self, name: str, value: object) -> str:
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def outside(self, name: str, value: np.ndarray) -> str:
        """An initializer in the side file."""
        offset = self.side.tell()
        self.side.write(np.ascontiguousarray(value).data)
        self.side.write(b"\0" * (-self.side.tell() % 4096))
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        t = self.graph.initializer.add(name=name, data_type=kind, dims=value.shape, data_location=TensorProto.EXTERNAL)
        location = Path(self.side.name).name
        for key, said in (("location", location), ("offset", offset), ("length", value.nbytes)):
            t.external_data.add(key=key, value=str(said))
        return name

    def add(self, op: str, inputs: list[str], out: str, **attributes: object) -> str:
        self.graph.node.append(helper.make_node(op, inputs, [out], name=out, **attributes))
        return out

    def quantized(self, t: str, scale: float, zero: str = "middle") -> str:
        """The activation on a grid of 8 bits."""
        s = self.const(t + "_s", np.float32(scale))
        return self.add("DequantizeLinear", [self.add("QuantizeLinear", [t, s, zero], t + "_q"), s, zero], t + "_dq")

    def linear(self, t: str, inputs: int, outputs: int, out: str) -> str:
        start = int(self.rng.integers(0, self.tile.size))
        w = self.outside(out + "_w", np.resize(np.roll(self.tile, start), (inputs, outputs)))
        scale = (0.5 + self.rng.random(outputs)) / (32 * inputs**0.5)
        s, z = self.const(out + "_ws", scale.astype(np.float32)), self.const(out + "_wz", np.zeros(outputs, np.int8))
        return self.add("MatMul", [t, self.add("DequantizeLinear", [w, s, z], out + "_wdq", axis=1)], out)

    def norm(self, t: str, out: str) -> str:
        """RMSNorm; a few of its channels are large, and clipped."""
        gain = np.exp(0.3 * self.rng.standard_normal(self.width))
        gain[self.rng.integers(0, self.width, 8)] *= 6
        square = self.add("Pow", [t, "two"], out + "_square")
        mean = self.add("ReduceMean", [square, "last"], out + "_mean")
        root = self.add("Sqrt", [self.add("Add", [mean, "epsilon"], out + "_plus")], out + "_root")
        unit = self.add("Div", [t, root], out + "_unit")
        return self.quantized(self.add("Mul", [unit, self.const(out + "_g", gain.astype(np.float32))], out), 4 / 127)

    def heads(self, t: str, out: str, last: tuple[int, ...]) -> str:
        parts = self.add("Reshape", [t, "split"], out + "_parts")
        return self.add("Transpose", [parts], out, perm=last)

    def block(self, t: str, k: int) -> str:
        """Attention and MLP, a norm before each."""
        d, name = self.width, f"blk{k}_"
        x = self.norm(t, name + "attn_norm")
        query = self.quantized(self.linear(x, d, d, name + "q"), 5 / 127)
        key = self.quantized(self.linear(x, d, d, name + "k"), 5 / 127)
        value = self.quantized(self.linear(x, d, d, name + "v"), 5 / 127)
        query, value = (self.heads(v, v + "_heads", (0, 2, 1, 3)) for v in (query, value))
        scores = self.add("MatMul", [query, self.heads(key, key + "_heads", (0, 2, 3, 1))], name + "scores")
        scores = self.add("Add", [self.add("Mul", [scores, "root"], name + "small"), "later"], name + "masked")
        weights = self.quantized(self.add("Softmax", [scores], name + "softmax", axis=-1), 1 / 255, "low")
        mixed = self.add("Transpose", [self.add("MatMul", [weights, value], name + "mixed")], name + "back",
                         perm=(0, 2, 1, 3))  # fmt: skip
        mixed = self.quantized(self.add("Reshape", [mixed, "joined"], name + "attention"), 4 / 127)
        t = self.add("Add", [t, self.linear(mixed, d, d, name + "o")], name + "middle")
        x = self.norm(t, name + "ffn_norm")
        gate, up = self.linear(x, d, self.inner, name + "gate"), self.linear(x, d, self.inner, name + "up")
        silu = self.add("Mul", [gate, self.add("Sigmoid", [gate], name + "sigmoid")], name + "silu")
        both = self.quantized(self.add("Mul", [silu, up], name + "gated"), 6 / 127)
        return self.add("Add", [t, self.linear(both, self.inner, d, name + "down")], name + "out")

    def build(self, gigabytes: float) -> int:
        """Write the file; returns the number of blocks."""
        d, g = self.width, self.graph
        each = 4 * d * d + 3 * d * self.inner
        blocks = max(1, round((gigabytes * 1e9 - 5 * WORDS * d) / each))
        later = np.triu(np.full((self.tokens, self.tokens), -1e9, np.float32), 1)
        self.const("later", later)
        self.const("root", np.float32(HEAD**-0.5))
        self.const("split", np.array([0, 0, d // HEAD, HEAD], np.int64))
        self.const("joined", np.array([0, 0, d], np.int64))
        g.input.append(helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", self.tokens]))
        t = self.add("Gather", [self.outside("table", self.table()), "ids"], "embedded")
        for k in range(blocks):
            t = self.block(t, k)
        t = self.linear(self.norm(t, "output_norm"), d, WORDS, "logits")
        g.output.append(helper.make_tensor_value_info(t, TensorProto.FLOAT, ["n", self.tokens, WORDS]))
        self.side.close()
        model = helper.make_model(g, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        self.path.write_bytes(model.SerializeToString())
        return blocks

    def table(self) -> np.ndarray:
        """The embedding."""
        return self.rng.standard_normal((WORDS, self.width), np.float32)


def used(pid: int) -> tuple[float, float]:
    """Anonymous bytes of a process and its children, and seconds of CPU."""
    anonymous = seconds = 0.0
    for process in family(pid):
        try:
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
            ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
        except OSError:
            continue
        anonymous += sum(1024 * float(x.split()[1]) for x in lines if x.startswith("RssAnon"))
        seconds += sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return anonymous, seconds


def pages(pid: int) -> float:
    """Bytes of all pages of a process and its children, each counted once."""
    found = 0.0
    for process in family(pid):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        found += sum(1024 * float(x.split()[1]) for x in lines if x.startswith("Pss:"))
    return found


def family(pid: int) -> list[int]:
    """A process and all that it has started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(x for c in children for x in family(int(c)))]


def watched(command: list[str], log: Path) -> int:
    """Run a command; print the peaks by what it said that it was doing, and in all."""
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    peaks: dict[str, list[float]] = {}  # by what it does: memory, CPU seconds, seconds
    before, moment, turn = 0.0, time.perf_counter(), 0
    with log.open("w") as said:
        process = subprocess.Popen(command, env=env, stdout=said, stderr=subprocess.STDOUT)
        while process.poll() is None:
            doing = (log.read_text().replace("\r", "\n").strip().splitlines() or ["start"])[-1]
            most = peaks.setdefault(doing.split(":")[0].split(",")[0][:40], [0.0] * 4)
            anonymous, seconds = used(process.pid)
            all_of_it = 0.0 if turn % 10 else pages(process.pid)
            now = time.perf_counter()
            most[:2] = max(most[0], anonymous), max(most[1], all_of_it)
            most[2:] = most[2] + max(seconds - before, 0.0), most[3] + now - moment
            before, moment, turn = max(before, seconds), now, turn + 1
            time.sleep(0.05)
    peaks["all"] = [f(p[k] for p in peaks.values()) for k, f in enumerate((max, max, sum, sum))]
    print(f"{'':40} {'anonymous, GB':>14} {'all pages, GB':>13} {'CPU s':>7} {'s':>7}")
    for doing, (anonymous, all_of_it, seconds, clock) in peaks.items():
        print(f"{doing:40} {anonymous / 1e9:14.2f} {all_of_it / 1e9:13.2f} {seconds:7.0f} {clock:7.0f}")
    print(log.read_text().replace("\r", "\n")[-1500:])
    return process.returncode or int(peaks["all"][0] > BOUND)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--gigabytes", type=float, default=3)
    p.add_argument("--width", type=int, default=4096)
    p.add_argument("--tokens", type=int, default=16)
    p.add_argument("--samples", type=int, default=24)
    p.add_argument("--folder", type=Path, help="where the models are made; default: the temporary folder")
    p.add_argument("--keep", action="store_true", help="make them in the folder itself, once, and leave them there")
    p.add_argument("options", nargs="*", help="of rewrite")
    a = p.parse_args()
    with tempfile.TemporaryDirectory(dir=a.folder) as name:
        folder = a.folder if a.keep else Path(name)
        source, samples = folder / "decoder.onnx", folder / "samples.npz"
        if not samples.exists():
            blocks = Maker(source, a.width, a.tokens).build(a.gigabytes)
            ids = np.random.default_rng(1).integers(0, WORDS, (a.samples, a.tokens))
            np.savez(samples, ids=ids)
            print(f"{blocks} blocks of width {a.width}, {(folder / 'decoder.onnx.data').stat().st_size / 1e9:.2f} GB")
        out = Path(name) / "out"
        out.mkdir()
        command = [sys.executable, "-c", OFTEN, "rewrite", str(source), str(out / "wide.onnx")]
        sys.exit(watched([*command, "--calib", str(samples), *a.options], Path(name) / "log"))


if __name__ == "__main__":
    main()
