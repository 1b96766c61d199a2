"""What a file loses on a round trip, and what becomes of damaged files: ours beside the package onnx-ir.

    pip install onnx-ir
    python tests/benchmarks/onnx_ir_losses.py [--damaged 1000]

Ours is load, index, commit, save; onnx-ir's is load, save.  Nothing is edited.  A small model gets one thing at a time
that files in the world have.  A row says "same bytes", what differs by the fields' paths, or the error.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from graph_work import synthetic
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from onnx_ocs.errors import UserError
from onnx_ocs.model import files
from onnx_ocs.model.edit import EditableGraph

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
UNKNOWN = b"\xb8\x3e\x01"  # field 999
NO_TEXT = b"\x32\x02\xff\xfe"  # doc_string of a node, not UTF-8
FLOAT = TensorProto.FLOAT
Way = Callable[[Path, Path], None]
BIG = 1000  # bytes of the tensor in the side file; all others are smaller


def ours(source: Path, out: Path) -> None:
    """A round trip with onnx_ocs."""
    model = files.load_model(source)
    EditableGraph(model).commit()
    files.save_model(model, out, source)


def theirs(source: Path, out: Path) -> None:
    """A round trip with onnx-ir; what lies in side files goes to one beside the output."""
    ir: Any = importlib.import_module("onnx_ir")
    model = ir.load(source)
    outside = any(isinstance(v.const_value, ir.ExternalTensor) for v in model.graph.initializers.values())
    ir.save(model, out, external_data=out.name + ".data" if outside else None, size_threshold_bytes=BIG - 1)


def tensor(name: str, kind: int, count: int, **fields: Any) -> Callable[[ModelProto], None]:
    return lambda m: m.graph.initializer.append(TensorProto(name=name, data_type=kind, dims=[count], **fields))


def extra(op: str, inputs: list[str], domain: str = "", **attributes: Any) -> Callable[[ModelProto], None]:
    """One more node, whose output nobody reads, and its operator set."""

    def add(m: ModelProto) -> None:
        m.graph.node.append(helper.make_node(op, inputs, ["extra"], domain=domain, **attributes))
        m.opset_import.extend([helper.make_opsetid(domain, 1)] if domain else [])

    return add


def local_function(m: ModelProto) -> None:
    body = [helper.make_node("Relu", ["a"], ["b"])]
    m.functions.append(helper.make_function("local", "F", ["a"], ["b"], body, m.opset_import[:]))
    extra("F", ["x"], "local")(m)


def subgraph(m: ModelProto) -> None:
    """An If whose branches read an outer tensor and hold a weight."""
    g = helper.make_graph([helper.make_node("Mul", ["x_dq", "in_w"], ["in_y"])], "inner", [], [])
    g.initializer.append(helper.make_tensor("in_w", FLOAT, [], [2.0]))
    g.output.append(helper.make_tensor_value_info("in_y", FLOAT, None))
    m.graph.initializer.append(helper.make_tensor("cond", TensorProto.BOOL, [], [1]))
    extra("If", ["cond"], then_branch=g, else_branch=g)(m)


def training(m: ModelProto) -> None:
    m.training_info.add().algorithm.CopyFrom(helper.make_graph([helper.make_node("Neg", ["q"], ["p"])], "t", [], []))


def annotation(m: ModelProto) -> None:
    a = m.graph.quantization_annotation.add(tensor_name="x_dq")
    a.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")


def map_output(m: ModelProto) -> None:
    extra("ZipMap", ["x"], "ai.onnx.ml", classlabels_int64s=[0])(m)
    kind = m.graph.output.add(name="extra").type.map_type
    kind.key_type = TensorProto.INT64
    kind.value_type.tensor_type.elem_type = FLOAT


def side_file(m: ModelProto) -> None:
    t = m.graph.initializer.add(name="big", data_type=TensorProto.INT8, dims=[BIG], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "side.bin", "offset": "0", "length": str(BIG), "checksum": "abc"}.items():
        t.external_data.add(key=key, value=value)


def attribute(**fields: Any) -> Callable[[ModelProto], None]:
    return lambda m: m.graph.node[0].attribute.append(AttributeProto(name="k", **fields))


PLACES = helper.make_tensor("", TensorProto.INT64, [1], [2])
SPARSE = helper.make_sparse_tensor(helper.make_tensor("sp", FLOAT, [1], [1.0]), PLACES, [4])
THINGS: dict[str, Callable[[ModelProto], object]] = {
    "a plain QDQ model": lambda m: None,
    "empty doc strings, as torch writes": lambda m: setattr(m.graph.node[0], "doc_string", ""),
    "unknown field: model": lambda m: m.MergeFromString(UNKNOWN),
    "unknown field: node": lambda m: m.graph.node[0].MergeFromString(UNKNOWN),
    "doc string that is not UTF-8": lambda m: m.graph.node[0].MergeFromString(NO_TEXT),
    "string attribute that is not UTF-8": attribute(s=b"\xff", type=AttributeProto.STRING),
    "strings attribute that is not UTF-8": attribute(strings=[b"\xff"], type=AttributeProto.STRINGS),
    "attribute without a type": attribute(i=1),
    "local function": local_function,
    "subgraphs that read outer tensors": subgraph,
    "sparse initializer": lambda m: m.graph.sparse_initializer.append(SPARSE),
    "sparse attribute": extra("Constant", [], sparse_value=SPARSE),
    "training info": training,
    "quantization annotation": annotation,
    "map-typed output": map_output,
    "metadata of the model, unsorted": lambda m: helper.set_model_props(m, {"b": "1", "a": "2"}),
    "metadata of a weight": lambda m: m.graph.initializer[0].metadata_props.add(key="k", value="v"),
    "int4, packed": tensor("i4", TensorProto.INT4, 3, raw_data=b"\x21\x03"),
    "int4 in int32_data": tensor("i4", TensorProto.INT4, 3, int32_data=[0x21, 3]),
    "strings": tensor("strs", TensorProto.STRING, 2, string_data=[b"a", b"\xff"]),
    "initializer without a name": tensor("", FLOAT, 1, raw_data=bytes(4)),
    "two initializers of one name": tensor("s", FLOAT, 1, raw_data=bytes(4)),
    "initializer repeated as an input": lambda m: m.graph.input.append(helper.make_tensor_value_info("s", FLOAT, [])),
    "operator set named twice": lambda m: m.opset_import.append(helper.make_opsetid("", 17)),
    "nodes out of order": lambda m: m.graph.node.reverse(),
    "side file with checksum": side_file,
}


def differences(a: Message, b: Message, path: str = "") -> list[str]:
    """Paths of the fields in which two messages differ."""
    if a.SerializeToString() == b.SerializeToString():
        return []
    found = [path + "(unknown fields)"] if len(UnknownFieldSet(a)) != len(UnknownFieldSet(b)) else []
    for name, f in {f.name: f for m in (a, b) for f, _ in m.ListFields()}.items():
        x, y = getattr(a, name), getattr(b, name)
        if f.is_repeated and (len(x) != len(y) or not f.message_type):
            found += [f"{path}{name} {len(x)} -> {len(y)}"] if list(x) != list(y) else []
        elif f.is_repeated:
            found += [d for p, q in zip(x, y, strict=True) for d in differences(p, q, f"{path}{name}.")]
        elif f.message_type:
            found += differences(x, y, f"{path}{name}.")
        elif x != y or a.HasField(name) != b.HasField(name):
            found.append(path + name)
    return found


def attempt(way: Way, source: Path, out: Path) -> str:
    """What becomes of one file; "" if it was written."""
    try:
        way(source, out)
    except UserError as e:
        return f"a sentence: {e}"
    except Exception as e:
        told: BaseException = e
        while told.__cause__ is not None:  # onnx-ir's errors say where, their causes what
            told = told.__cause__
        return f"{type(told).__name__}: {told}"
    return ""


def show_losses(folder: Path) -> None:
    """A row for each thing; what also a plain model loses is not repeated."""
    print("| file with | ours | onnx-ir |\n|---|---|---|")
    plain: set[str] = set()
    (folder / "side.bin").write_bytes(bytes(BIG))
    (folder / "out").mkdir()
    source, out = folder / "m.onnx", folder / "out" / "m.onnx"
    for what, change in THINGS.items():
        model, cells = synthetic(20), []
        change(model)
        source.write_bytes(model.SerializeToString())
        for way in (ours, theirs):
            error = attempt(way, source, out)[:90].replace("\n", " ")
            told = [error] if error else differences(model, onnx.load(out, load_external_data=False))
            new = [k for k in dict.fromkeys(told) if k.split()[0] not in plain]
            cells.append("; ".join(new[:3]) or ("as plain" if told else "same bytes"))
        plain = plain or {cells[1].split()[0]}
        print(f"| {what} | {' | '.join(cells)} |")


def content(path: Path) -> Counter[bytes]:
    """The initializers' values, wherever they lie, and each node's operator and wiring."""
    g = onnx.load(path).graph
    nodes = [onnx.NodeProto(op_type=n.op_type, domain=n.domain, input=n.input, output=n.output) for n in g.node]
    values = [t.name.encode() + repr(t.dims).encode() + numpy_helper.to_array(t).tobytes() for t in g.initializer]
    return Counter([*values, *(n.SerializeToString() for n in nodes)])


def outcome(way: Way, source: Path, out: Path) -> str:
    """What becomes of one damaged file, in words to count."""
    told = attempt(way, source, out).split(":")[0]
    if told:
        return told
    try:
        return "written" if content(source) == content(out) else "written, parts changed or lost"
    except Exception:  # the same goes for the input
        return "written, with values that onnx cannot read"


def show_damaged(count: int) -> None:
    """Outcomes of as many damaged files (`tests/whole/fuzz.py`)."""
    import fuzz

    files = sorted(f for f in (fuzz.ROOT / "tests" / "data").rglob("*.onnx") if f.stat().st_size < 200_000)
    tally: Counter[tuple[str, ...]] = Counter()
    for path, seed in fuzz.cases(files, count, 0):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            fuzz.prepare(folder, fuzz.damage(path.read_bytes(), seed)[1])
            (folder / "out").mkdir()
            source = folder / "in" / "model.onnx"
            tally[tuple(outcome(w, source, folder / "out" / w.__name__) for w in (ours, theirs))] += 1
    print("\n| damaged files | ours | onnx-ir |\n|---|---|---|")
    for told, n in tally.most_common():
        print(f"| {n} | {' | '.join(told)} |")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--damaged", type=int, default=1000)
    a = p.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        show_losses(Path(folder))
    show_damaged(a.damaged)


if __name__ == "__main__":
    main()
