"""Single random mutations of a finished model: one value, one attribute, one edge, one operator, one declaration.

A mutation is *effective* when it moves some output by more than 1 % of that output's largest value, or when the model
does not load or run any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, numpy_helper

from onnx_ocs.errors import first_line
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import is_op
from onnx_ocs.runtime.session import attempt, attempt_run

Array = np.ndarray[Any, Any]
Model = onnx.ModelProto
NOTICED = 0.01  # share of an output's largest value

KINDS = (
    "weight", "weight scale", "zero point", "bias", "bias scale", "activation scale", "activation step",
    "constant", "attribute", "edge", "copies", "operator",
)  # fmt: skip


def copy_of(model: Model) -> Model:
    new = Model()
    new.CopyFrom(model)
    return new


def roles(model: Model) -> dict[str, str]:
    """What each initializer is for."""
    graph, found = Graph(model), {}
    for n in graph.nodes:
        constant = [t for t in n.input if t in graph.initializers]
        if is_op(n, "QuantizeLinear", "DequantizeLinear"):
            source, readers = n.input[0], graph.readers(n.output[0])
            bias = any(
                is_op(r, "Conv", "ConvTranspose", "Gemm") and list(r.input).index(n.output[0]) == 2 for r in readers
            )
            kind = "bias" if bias else "weight" if graph.is_constant(source) else "activation"
            names = (kind if kind != "activation" else "constant", f"{kind} scale", "zero point")
            found |= {t: names[k] for k, t in enumerate(n.input) if t in constant}
        elif is_op(n, "Conv", "ConvTranspose", "Gemm", "MatMul"):
            found |= {t: "bias" if list(n.input).index(t) == 2 else "weight" for t in constant}
        else:
            found |= {t: "constant" for t in constant if t not in found}
    return found


def _changed(value: Array, rng: np.random.Generator) -> Array | None:
    """One value of an array changed; None where there is nothing to change."""
    if not value.size or value.dtype == object:
        return None
    new = value.copy()
    flat = new.reshape(-1)
    k = int(rng.integers(flat.size))
    if value.dtype.kind == "f":
        flat[k] = flat[k] * rng.choice([0.5, 0.9, 1.1, 2.0]) + (flat[k] == 0)
    elif value.dtype == bool:
        flat[k] = not flat[k]
    else:
        wide = flat.astype(np.int64)
        step = int(rng.choice([-1, 1])) * (1 if value.dtype.itemsize < 4 else max(1, int(np.abs(wide).max() // 5)))
        flat[k] = np.asarray(wide[k] + step).astype(value.dtype)
    return None if new.tobytes() == value.tobytes() else new


def _store(model: Model, name: str, value: Array) -> None:
    t = next(t for t in model.graph.initializer if t.name == name)
    t.CopyFrom(numpy_helper.from_array(value, name))


def of_constant(kind: str) -> Callable[[Model, np.random.Generator], str | None]:
    def mutate(model: Model, rng: np.random.Generator) -> str | None:
        known = roles(model)
        names = sorted(t for t, role in known.items() if role == kind)
        if not names:
            return None
        name = names[rng.integers(len(names))]
        value = _changed(numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name)), rng)
        if value is None:
            return None
        _store(model, name, value)
        return f"{kind} '{name}'"

    return mutate


def activation_step(model: Model, rng: np.random.Generator) -> str | None:
    """The scale of one Q or DQ alone."""
    graph = Graph(model)
    nodes = [n for n in model.graph.node if is_op(n, "QuantizeLinear", "DequantizeLinear")]
    nodes = [n for n in nodes if not graph.is_constant(n.input[0]) and n.input[1] in graph.initializers]
    if not nodes:
        return None
    n = nodes[rng.integers(len(nodes))]
    value = numpy_helper.to_array(graph.initializers[n.input[1]])
    name = f"mutated{len(model.graph.initializer)}"
    factor = value.dtype.type(rng.choice([0.5, 0.9, 1.1, 2.0]))
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value * factor), name))
    n.input[1] = name
    return f"step of '{n.output[0]}'"


def attribute(model: Model, rng: np.random.Generator) -> str | None:
    places = [
        (n, a)
        for n in model.graph.node
        for a in n.attribute
        if a.type in (AttributeProto.INT, AttributeProto.INTS, AttributeProto.FLOAT, AttributeProto.STRING)
    ]
    if not places:
        return None
    n, a = places[rng.integers(len(places))]
    if a.type == AttributeProto.INT:
        a.i += int(rng.choice([-1, 1]))
    elif a.type == AttributeProto.INTS and a.ints:
        a.ints[int(rng.integers(len(a.ints)))] += int(rng.choice([-1, 1]))
    elif a.type == AttributeProto.FLOAT:
        a.f = a.f * 1.5 + 0.1
    else:
        return None
    return f"{a.name} of {n.op_type} '{n.name or n.output[0]}'"


def edge(model: Model, rng: np.random.Generator) -> str | None:
    """One input of a node replaced by a tensor that stands elsewhere at the same input of the same operator."""
    nodes = [n for n in model.graph.node if any(n.input)]
    n = nodes[rng.integers(len(nodes))]
    k = int(rng.choice([k for k, t in enumerate(n.input) if t]))
    alike = sorted(
        {m.input[k] for m in model.graph.node if m.op_type == n.op_type and len(m.input) > k and m.input[k]}
        - {n.input[k]}
    )
    if not alike:
        return None
    before = n.input[k]
    n.input[k] = alike[rng.integers(len(alike))]
    return f"input {k} of {n.op_type} '{n.name or n.output[0]}': '{n.input[k]}' instead of '{before}'"


def copies(model: Model, rng: np.random.Generator) -> str | None:
    """Two channels of a weight change places."""
    known = roles(model)
    names = sorted(t for t, role in known.items() if role == "weight")
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name in names}
    names = [t for t in names if values[t].ndim > 1]
    if not names:
        return None
    name = names[rng.integers(len(names))]
    value = values[name].copy()
    axis = int(rng.integers(2))
    if value.shape[axis] < 2:
        return None
    a, b = rng.choice(value.shape[axis], 2, replace=False)
    order = np.arange(value.shape[axis])
    order[[a, b]] = order[[b, a]]
    new = np.take(value, order, axis=axis)
    if new.tobytes() == value.tobytes():
        return None
    _store(model, name, new)
    return f"channels {a} and {b} of '{name}' along axis {axis}"


OTHER = {
    "Relu": "Identity", "MaxPool": "AveragePool", "AveragePool": "MaxPool", "Add": "Sub", "Sub": "Add", "Mul": "Div",
    "Div": "Mul", "Min": "Max", "Max": "Min", "GlobalAveragePool": "GlobalMaxPool", "Sigmoid": "Tanh", "Erf": "Tanh",
    "HardSigmoid": "Sigmoid",
}  # fmt: skip


def operator(model: Model, rng: np.random.Generator) -> str | None:
    nodes = [n for n in model.graph.node if n.op_type in OTHER]
    if not nodes:
        return None
    n = nodes[rng.integers(len(nodes))]
    was, n.op_type = n.op_type, OTHER[n.op_type]
    return f"{n.op_type} for {was} '{n.name or n.output[0]}'"


MUTATIONS: Mapping[str, Callable[[Model, np.random.Generator], str | None]] = {
    **{k: of_constant(k) for k in ("weight", "weight scale", "zero point", "bias", "bias scale", "activation scale",
                                   "constant")},
    "activation step": activation_step, "attribute": attribute, "edge": edge, "copies": copies, "operator": operator,
}  # fmt: skip


def outputs(model: Model, feed: Mapping[str, Array]) -> list[Array] | str:
    session = attempt(model, "disable_all")
    got = session if isinstance(session, str) else attempt_run(session, feed)
    return got if isinstance(got, str) else [got[o.name] for o in model.graph.output]


def effective(before: list[Array], after: list[Array] | str) -> bool:
    """Whether a mutation shows."""
    if isinstance(after, str):
        return True
    for a, b in zip(before, after, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return True
        x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if not np.array_equal(np.isfinite(x), np.isfinite(y)):
            return True
        if np.abs(np.nan_to_num(x - y)).max(initial=0.0) > NOTICED * np.abs(np.nan_to_num(x)).max(initial=0.0):
            return True
    return False


def mutated(model: Model, kind: str, rng: np.random.Generator, tries: int = 20) -> tuple[Model, str] | None:
    """A copy with one mutation of a kind, and what it is; None where the model has nothing of the kind."""
    for _ in range(tries):
        new = copy_of(model)
        try:
            what = MUTATIONS[kind](new, rng)
        except (ValueError, IndexError, OverflowError) as e:
            what = None
            del e
        if what is not None and new.SerializeToString() != model.SerializeToString():
            return new, what
    return None


__all__ = ["KINDS", "MUTATIONS", "copy_of", "effective", "first_line", "mutated", "outputs"]


def mutants(
    model: Model, kind: str, seed: int, feed: Mapping[str, Array], count: int, unseen: bool = False
) -> Iterator[tuple[Model, str]]:
    """Some mutations of a kind, and what each is: those that are effective, or with `unseen` all."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    before = outputs(model, feed)
    assert not isinstance(before, str)
    for _ in range(count):
        made = mutated(model, kind, rng)
        if made is not None and (unseen or effective(before, outputs(made[0], feed))):
            yield made
