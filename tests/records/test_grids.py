"""New grids as a file declares them: written, read, and said to be damaged."""

from __future__ import annotations

import json

import onnx
import pytest

from onnx_ocs.records.grids import (
    GRIDS,
    Edit,
    Gains,
    LeftOut,
    Part,
    Sixteen,
    Split,
    ZeroPoint,
    output_octaves,
    read_edits,
    record_edits,
)

PART = Part(1, "q", "dq", ("nq", "nd"), 1 / 3, -7)
EDITS: list[Edit] = [
    Split("joined", (PART,)), LeftOut("dq"), LeftOut("y", "y/Identity"), ZeroPoint("q", 0, 12),
    Sixteen("q", "int16", -3, -771), Gains(("q", "r"), (("a", 1), ("b", 0)), ("y", "z"), (0, -3, 7)),
    Gains(("q",), (), ("y",), (1,), ("q/Mul", "q_gained")),
]  # fmt: skip


def test_what_is_written_is_read() -> None:
    """In order, behind what is there, to the last bit."""
    model = onnx.ModelProto()
    assert read_edits(model) == []
    record_edits(model, EDITS[:2])
    record_edits(model, EDITS[2:])
    assert read_edits(onnx.ModelProto.FromString(model.SerializeToString())) == EDITS


@pytest.mark.parametrize(
    "entry",
    [
        {},
        [{"edit": "gone"}],
        [{"edit": "left out", "dequantized": 1, "identity": None}],
        [{"edit": "left out", "dequantized": "a"}],
        [{"edit": "zero point", "quantized": "q", "before": 0, "now": 1.5}],
        [{"edit": "zero point", "quantized": "q", "before": False, "now": 1}],
        [{"edit": "bits16", "quantized": "q", "type": "uint8", "before": 0, "now": 1}],
        [{"edit": "bits16", "quantized": "q", "type": "uint16", "before": 0, "now": True}],
        [{"edit": "gains", "quantized": ["q"], "sources": [["a"]], "layers": ["y"], "octaves": [0]}],
        [{"edit": "gains", "quantized": ["q"], "sources": [["a", 1]], "layers": ["y"], "octaves": [0.5]}],
        [{"edit": "gains", "quantized": ["q"], "sources": [["a", 1]], "layers": [3], "octaves": [0]}],
        [{"edit": "gains", "quantized": ["q"], "sources": [], "layers": ["y"], "octaves": [0]}],
        [{"edit": "gains", "quantized": ["q"], "sources": [], "layers": ["y"], "octaves": [0], "product": ["a"]}],
        [{"edit": "gains", "quantized": ["q"], "sources": [], "layers": ["y"], "octaves": [0], "product": [1, "a"]}],
        [{"edit": "split", "joined": "j", "parts": [{}]}],
        [{"edit": "split", "joined": "j", "parts": None}],
        [7],
        "text",
        None,
    ],
)
def test_damage(entry: object) -> None:
    model = onnx.ModelProto()
    model.metadata_props.add(key=GRIDS, value=json.dumps(entry))
    if entry == {}:  # an empty collection declares nothing
        assert read_edits(model) == []
        return
    with pytest.raises(ValueError, match="new grids cannot be read"):
        read_edits(model)


def test_twice() -> None:
    model = onnx.ModelProto()
    for _ in range(2):
        model.metadata_props.add(key=GRIDS, value="[]")
    with pytest.raises(ValueError, match="twice"):
        read_edits(model)


def test_octaves_of_outputs_are_those_of_weights_in_front() -> None:
    """What was there before does not count, nor do constants at other inputs."""
    before, after = onnx.ModelProto(), onnx.ModelProto()
    record_edits(before, EDITS[-2:-1])
    record_edits(after, [*EDITS[-2:-1], *EDITS])
    assert output_octaves(before, after) == {"a": (0, -3, 7)}
    record_edits(after, EDITS[-2:-1])
    assert output_octaves(before, after) == {"a": (0, -6, 14)}
