"""New grids: what became of quantizers that were left out, split, or given another zero-point, written on the model.

One metadata entry of the model, a JSON list under the key `onnx_ocs.grids`, in the order in which it was done:

    {"edit": "left out", "dequantized": D, "identity": name | null}
    {"edit": "split", "joined": C, "parts": [{"input": k, "quantized": Q, "dequantized": D, "names": [q, d],
                                              "scale": s, "zero_point": z}]}
    {"edit": "zero point", "quantized": Q, "before": z, "now": z'}
    {"edit": "bits16", "quantized": Q, "type": "uint16" | "int16", "before": z, "now": z'}
    {"edit": "gains", "quantized": [Q], "sources": [[tensor, k]], "layers": [tensor], "octaves": [e],
                      "product": null | [name, tensor]}

Tensors are named as they are when the edit is made.  A pair that is left out: whoever read D, which the
DequantizeLinear writes, reads what its QuantizeLinear read; layers still read D, and a graph output D is written by an
Identity.  A split: inputs of the Concat that writes C get a pair of their own, of the type that the pair behind the
Concat has.  16 bits: Q and every DequantizeLinear that reads its integers have the type and the zero-point now; a Clip
between them is gone, and below opset 21 they are onnxruntime's own operators (com.microsoft).  Gains: channel c of what
Q quantizes is 2^octaves[c] times what it was.  The constant at input k of each node that writes one of the sources is
multiplied with that, and the weights of the layers, named by what they write, which are all that read the tensor, are
divided by it.  Without sources a product of its own, of that name, writes the tensor that Q reads now, and all but the
layers read what Q read.  A new step is declared on its QuantizeLinear (`onnx_ocs.records.steps`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx

from onnx_ocs.model.text import from_json
from onnx_ocs.records.metadata import set_entry

__all__ = [
    "GRIDS", "SHORTS", "Edit", "Gains", "LeftOut", "Part", "Sixteen", "Split", "ZeroPoint", "new_gains",
    "output_octaves", "read_edits", "record_edits",
]  # fmt: skip

GRIDS = "onnx_ocs.grids"
SHORTS = ("uint16", "int16")


@dataclass(frozen=True)
class LeftOut:
    """A pair that is not there any more.

    Attributes:
        dequantized: what its DequantizeLinear writes.
        identity: the node that writes it now, where it is a graph output.
    """

    dequantized: str
    identity: str | None = None


@dataclass(frozen=True)
class Part:
    """One input of a Concat, and its own pair.

    Attributes:
        input: which input of the Concat.
        quantized: what the QuantizeLinear writes.
        dequantized: what the DequantizeLinear writes.
        names: of the two nodes.
        scale: the step.
        zero_point: the integer that stands for 0.
    """

    input: int
    quantized: str
    dequantized: str
    names: tuple[str, str]
    scale: float
    zero_point: int


@dataclass(frozen=True)
class Split:
    """A Concat whose inputs have grids of their own.

    Attributes:
        joined: what the Concat writes.
        parts: the inputs that got a pair.
    """

    joined: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class ZeroPoint:
    """Another zero-point.

    Attributes:
        quantized: what the QuantizeLinear writes.
        before: the zero-point before.
        now: the zero-point now.
    """

    quantized: str
    before: int
    now: int


@dataclass(frozen=True)
class Sixteen:
    """Integers of 16 bits.

    Attributes:
        quantized: what the QuantizeLinear writes.
        type: of its integers now, one of `SHORTS`.
        before: the zero-point before.
        now: the zero-point now.
    """

    quantized: str
    type: str
    before: int
    now: int


@dataclass(frozen=True)
class Gains:
    """Channels of a tensor that are powers of two times what they were.

    Attributes:
        quantized: what the tensor's QuantizeLinears write.
        sources: constants that are multiplied: what their reader writes, and at which input it reads them.
        layers: what the layers write whose weights are divided.
        octaves: the exponents, one for each channel.
        product: name and output of the Mul in front of the QuantizeLinear, where there are no sources.
    """

    quantized: tuple[str, ...]
    sources: tuple[tuple[str, int], ...]
    layers: tuple[str, ...]
    octaves: tuple[int, ...]
    product: tuple[str, str] | None = None


Edit = LeftOut | Split | ZeroPoint | Sixteen | Gains
KINDS: dict[str, type[LeftOut] | type[Split] | type[ZeroPoint] | type[Sixteen] | type[Gains]] = {
    "left out": LeftOut, "split": Split, "zero point": ZeroPoint, "bits16": Sixteen, "gains": Gains,
}  # fmt: skip


def record_edits(model: onnx.ModelProto, edits: Sequence[Edit]) -> None:
    """Write edits on a model, behind those that it has."""
    words = {kind: word for word, kind in KINDS.items()}
    new = [{"edit": words[type(e)], **asdict(e)} for e in edits]
    had = [e for p in model.metadata_props if p.key == GRIDS for e in from_json(p.value)]
    set_entry(model, GRIDS, json.dumps([*had, *new]))


def read_edits(model: onnx.ModelProto) -> list[Edit]:
    """The edits that a model declares, in order.

    Raises:
        ValueError: the entry is damaged.
    """
    found = [p.value for p in model.metadata_props if p.key == GRIDS]
    if len(found) > 1:
        raise ValueError("the model declares its new grids twice")
    try:
        return [_edit(e) for text in found for e in from_json(text)]
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"the new grids cannot be read ({type(e).__name__}: {e})") from None


def new_gains(before: onnx.ModelProto, after: onnx.ModelProto) -> list[Gains]:
    """The gains that a rewritten model declares and its original does not.

    Raises:
        ValueError: an entry is damaged.
    """
    return [e for e in read_edits(after)[len(read_edits(before)) :] if isinstance(e, Gains)]


def output_octaves(before: onnx.ModelProto, after: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """By what layers' outputs were multiplied through their weights, in octaves, by what the layers write.

    Raises:
        ValueError: an entry is damaged.
    """
    found: dict[str, tuple[int, ...]] = {}
    for e in new_gains(before, after):
        for t in (t for t, k in e.sources if k == 1):
            found[t] = tuple(map(sum, zip(found.get(t, (0,) * len(e.octaves)), e.octaves, strict=True)))
    return found


def _edit(entry: Mapping[str, Any]) -> Edit:
    """An edit from JSON, its types checked."""
    kind = KINDS[entry["edit"]]
    if kind is LeftOut:
        identity = entry["identity"]
        return LeftOut(_text(entry["dequantized"]), None if identity is None else _text(identity))
    if kind is ZeroPoint:
        return ZeroPoint(_text(entry["quantized"]), _whole(entry["before"]), _whole(entry["now"]))
    if kind is Sixteen:
        if entry["type"] not in SHORTS:
            raise ValueError(f"{entry['type']!r} is no type of 16 bits")
        return Sixteen(_text(entry["quantized"]), entry["type"], _whole(entry["before"]), _whole(entry["now"]))
    if kind is Gains:
        sources = tuple((_text(t), _whole(k)) for t, k in entry["sources"])
        octaves = tuple(_whole(e) for e in entry["octaves"])
        layers, product = tuple(_text(t) for t in entry["layers"]), entry["product"]
        if product is not None:
            name, tensor = product
            product = _text(name), _text(tensor)
        return Gains(tuple(_text(t) for t in entry["quantized"]), sources, layers, octaves, product)
    return Split(_text(entry["joined"]), tuple(_part(p) for p in entry["parts"]))


def _part(p: Mapping[str, Any]) -> Part:
    q, d = p["names"]
    scale = float(p["scale"])
    written = _text(p["quantized"]), _text(p["dequantized"])
    return Part(_whole(p["input"]), *written, (_text(q), _text(d)), scale, _whole(p["zero_point"]))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no name")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no whole number")
    return value
