"""A model's bytes in pieces are its bytes."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnx_ocs.model.protobuf import _varint, drop_value_info, pieces

DATA = Path(__file__).resolve().parents[1] / "data"


@pytest.mark.parametrize("path", sorted(DATA.glob("*.onnx"))[::4], ids=lambda p: p.stem)
def test_pieces_are_the_serialized_model(path: Path) -> None:
    model = onnx.load(path)
    model.metadata_props.add(key="behind", value="the graph")
    found = list(pieces(model))
    assert b"".join(found) == model.SerializeToString()
    assert len(found) == 2 + 2 * len(model.graph.initializer)


def test_lengths_of_all_sizes() -> None:
    model = onnx.load(sorted(DATA.glob("*.onnx"))[0])
    for size in (0, 1, 100, 127, 128, 16_383, 16_384, 1 << 21):
        t = model.graph.initializer.add(name=f"w{size}", data_type=onnx.TensorProto.INT8, dims=[size])
        t.raw_data = bytes(size)
    assert b"".join(pieces(model)) == model.SerializeToString()


def test_unknown_fields_stay() -> None:
    model = onnx.load(sorted(DATA.glob("*.onnx"))[0])
    newer = model.SerializeToString() + b"\xf8\x7f\x01"  # field 2047, a number
    model.ParseFromString(newer)
    assert b"".join(pieces(model)) == model.SerializeToString() == newer


def test_what_is_no_text_stays() -> None:
    """A parser lets bytes through where the format says text; nobody reads them here, so they are no reason to fail."""
    model = onnx.load(sorted(DATA.glob("*.onnx"))[0])
    graph = model.graph.SerializeToString() + b"\x52\x02\xe9x"  # doc_string, behind the initializers
    model.ClearField("graph")
    damaged = model.SerializeToString() + b"\x12\x02\xf9x" + b"\x3a" + _varint(len(graph)) + graph  # producer_name
    model = onnx.ModelProto.FromString(damaged)
    assert b"\xf9x" in model.SerializeToString() and b"\xe9x" in model.SerializeToString()
    assert b"".join(pieces(model)) == model.SerializeToString()


def test_what_is_said_of_tensors_is_dropped_by_name() -> None:
    graph = onnx.GraphProto()
    for name in ("a", "b", "c"):
        graph.value_info.add(name=name)
    drop_value_info(graph, lambda name: name != "b")
    assert [v.name for v in graph.value_info] == ["b"]
