"""What a file declares: read with its channels and steps, refused where it cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from tiny import model, node

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.tensors import pack
from onnx_ocs.records.layouts import LAYOUT
from onnx_ocs.records.steps import NOW, SCALE
from onnx_ocs.records.weights import REFITTED
from onnx_ocs.verification.declared import Declared
from onnx_ocs.verification.values import Differs

Array = np.ndarray[Any, Any]
ORIGIN, LEVEL = np.asarray([0, 1, 2, 1]), np.asarray([0, 0, 0, 1])
STEP = np.asarray([0.5, 0.25, 2], np.float32)


def plain(scale: Array | None = None) -> onnx.ModelProto:
    s = STEP if scale is None else scale
    nodes = [
        node("QuantizeLinear", "x s", "q", axis=1),
        node("DequantizeLinear", "q s", "d", axis=1),
        node("Conv", "d w", "y"),
    ]
    return model(nodes, {"s": s, "w": np.ones((2, s.size, 1, 1), np.float32)})


def layout(**changed: Any) -> str:
    entry = {"original": "q", "axis": 1, "narrow": 3, "origin": pack(ORIGIN), "level": pack(LEVEL)}
    return json.dumps(entry | changed)


def declared(*entries: tuple[str, str], scale: Array | None = None, of: int = 0) -> Declared:
    new = plain(scale)
    for key, value in entries:
        new.graph.node[of].metadata_props.add(key=key, value=value)
    return Declared.read(Graph(plain()), Graph(new))


def test_a_file_without_declarations() -> None:
    found = declared()
    assert not (found.layouts or found.scales or found.refitted or found.undated)


def test_layouts() -> None:
    name, found = declared((LAYOUT, layout())).layouts["q"]
    assert name == "q" and (found.axis, found.narrow, found.halved) == (1, 3, False)
    assert found.origin.tolist() == ORIGIN.tolist() and found.level.tolist() == LEVEL.tolist()
    assert declared((LAYOUT, layout(halved=True))).layouts["q"][1].halved


DAMAGED: dict[str, Callable[[], str]] = {
    "no JSON": lambda: "{",
    "nothing": lambda: "null",
    "text": lambda: '"text"',
    "a list": lambda: "[1, 2]",
    "no axis": lambda: json.dumps({"original": "q"}),
    "no numbers": lambda: layout(origin="zzz"),
    "another number of levels": lambda: layout(level=pack(LEVEL[:3])),
    "copies without a base": lambda: layout(level=pack(LEVEL + 1)),
    "more channels": lambda: layout(narrow=4),
    "a quantizer that is none": lambda: layout(original="d"),
    "a quantizer that is not there": lambda: layout(original="elsewhere"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_layouts(name: str) -> None:
    with pytest.raises(Differs):
        declared((LAYOUT, DAMAGED[name]()))


def test_what_is_declared_twice_or_elsewhere() -> None:
    with pytest.raises(Differs, match="one thing twice"):
        declared((LAYOUT, layout()), (LAYOUT, layout()))
    with pytest.raises(Differs, match="claims to have widened"):
        declared((LAYOUT, layout()), of=1)
    with pytest.raises(Differs, match="claims to have rescaled"):
        declared((SCALE, "0.5"), of=1)


def steps(before: Array, now: Array | None) -> list[tuple[str, str]]:
    entries = [(SCALE, json.dumps(before.astype(float).tolist()))]
    return entries if now is None else [*entries, (NOW, json.dumps(now.astype(float).tolist()))]


def test_steps() -> None:
    found = declared(*steps(STEP, STEP / 2), scale=STEP / 2)
    assert found.scales["q"].tolist() == (STEP / 2).tolist() and not found.undated
    # a step that is declared and not there is the structure's to find: it is taken as declared
    assert declared(*steps(STEP, STEP / 4), scale=STEP / 2).scales["q"].tolist() == (STEP / 4).tolist()


def test_older_files_do_not_repeat_the_step() -> None:
    found = declared(*steps(STEP, None), scale=STEP / 2)
    assert found.undated == ["q"] and found.scales["q"].tolist() == (STEP / 2).tolist()
    wide = np.append(STEP, STEP[1])[[0, 1, 2, 3]] / 2
    found = declared((LAYOUT, layout()), *steps(STEP, None), scale=wide.astype(np.float32))
    assert found.scales["q"].tolist() == (STEP / 2).tolist()  # one for each of the original's channels


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (STEP * 2, STEP),  # not what the original has
        (STEP, STEP[:2]),
        (STEP, STEP * -1),
        (STEP, STEP * 0),
        (STEP, STEP * np.inf),
        (STEP, STEP * np.nan),
    ],
)
def test_steps_that_cannot_be(before: Array, now: Array) -> None:
    with pytest.raises(Differs, match="the step that 'q' is said to have"):
        declared(*steps(before, now))


def test_what_an_earlier_run_declared_is_no_change() -> None:
    before, after = plain(), plain()
    for m in (before, after):
        m.graph.node[0].metadata_props.add(key=LAYOUT, value=layout(original="elsewhere"))
    found = Declared.read(Graph(before), Graph(after))
    assert not found.layouts


def test_damaged_entries_of_re_fitted_layers() -> None:
    with pytest.raises(Differs):
        declared((REFITTED, "{"), of=2)
    entry: dict[str, Any] = dict.fromkeys(("weight_scale", "bias", "bias_scale"))
    entry |= {"weight": {"name": "w", "before": "w", "digest": "0" * 64}, "low": -127, "high": 127}
    found = declared((REFITTED, json.dumps(entry)), of=2)
    assert found.refitted["y"].weight.name == "w" and found.refitted["y"].low == -127
