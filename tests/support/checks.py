"""What must hold for every rewritten model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import zoo
from reference import initializer, wide_model

from onnx_ocs.api import RewriteResult

Array = np.ndarray[Any, Any]
LEVELS = ("disable_all", "enable_all")


def applied(result: RewriteResult) -> dict[str, str]:
    return {e["tensor"]: e["mode"] for e in result.report["regions"] if e["status"] == "applied"}


def rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))


def output_step(model: onnx.ModelProto, name: str) -> float:
    """The quantization step of a graph output; 0 for one in float."""
    n = next(n for n in model.graph.node if name in n.output)
    return float(initializer(model, n.input[1]).max()) if n.op_type == "DequantizeLinear" else 0.0


def check_outputs(
    case: zoo.Case,
    model: onnx.ModelProto,
    result: RewriteResult,
    feed: dict[str, Array],
    levels: Sequence[str],
    least: float,
) -> None:
    """The rewritten model against the wide quantizers, which must differ from the original by a share of `least`."""
    tensors = [e["tensor"] for e in result.report["regions"]]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(onnx.ValueInfoProto(name=t) for t in tensors if t not in feed)
    found = zoo.execute(probe, feed)
    plains, values = found[: len(model.graph.output)], found[len(model.graph.output) :]
    ranks = dict(zip([t for t in tensors if t not in feed], (v.ndim for v in values), strict=True))
    ranks |= {k: v.ndim for k, v in feed.items()}
    wants = zoo.execute(wide_model(model, result.report["regions"], ranks, result.report["grids"]), feed)
    for level in levels:
        _check_values(case, model, wants, plains, zoo.execute(result.model, feed, level), least)


def _check_values(
    case: zoo.Case,
    model: onnx.ModelProto,
    wants: Sequence[Array],
    plains: Sequence[Array],
    gots: Sequence[Array],
    least: float,
) -> None:
    changes = []
    for o, want, plain, got in zip(model.graph.output, wants, plains, gots, strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        want, plain, got = (v.astype(np.float64) for v in (want, plain, got))
        gap, change, step = np.abs(got - want), np.abs(want - plain), output_step(model, o.name)
        changes.append(rms(change) / rms(want))
        if not case.exact:
            assert rms(gap) <= 0.05 * rms(change) + 1e-6 * rms(want), o.name
        elif step:
            assert gap.max() <= 1.001 * step and np.mean(gap > 0.01 * step) < 0.01, o.name
        else:
            # a value on the edge of rounding may fall to the other side in one sample, on one machine
            size = np.abs(want).max()
            off = sum(g.max() > 1e-5 * size for g in gap)
            assert off <= len(gap) // 3 and gap.max() <= 0.02 * size, o.name
    assert max(changes) > least, "the rewrite changes nothing, so nothing was tested"


def check_structure(model: onnx.ModelProto, new: onnx.ModelProto, *by: str) -> None:
    """Same inputs, outputs and opset, no new quantizer, constants untouched, provenance on all that was edited."""
    for field in ("input", "output"):
        assert [v.SerializeToString() for v in getattr(model.graph, field)] == [
            v.SerializeToString() for v in getattr(new.graph, field)
        ]
    assert list(model.opset_import) == list(new.opset_import) and model.ir_version == new.ir_version
    onnx.checker.check_model(new, full_check=True)
    (q, dq), (q_now, dq_now) = activation_quantizers(model), activation_quantizers(new)
    assert (q, dq) == (q_now - parts(model, new), dq_now)
    old = {t.name: t.SerializeToString() for t in model.graph.initializer}
    for t in new.graph.initializer:
        assert t.name not in old or t.SerializeToString() == old[t.name], f"{t.name} was changed in place"
    before = {n.SerializeToString() for n in model.graph.node}
    for n in new.graph.node:
        stamps = [p.value.split(", ") for p in n.metadata_props if p.key == "onnx_ocs.pass"]
        assert n.SerializeToString() in before or (stamps and set(*stamps) <= set(by)), n.name or n.output[0]
    assert len({n.name for n in new.graph.node if n.name}) == sum(bool(n.name) for n in new.graph.node)


def parts(model: onnx.ModelProto, new: onnx.ModelProto) -> int:
    """Number of new Q nodes whose integers are joined with those of the channels that they are copies of."""
    old = {o for n in model.graph.node for o in n.output}
    joined = {t for n in new.graph.node if n.op_type == "Concat" for t in n.input}
    added = [n for n in new.graph.node if n.op_type == "QuantizeLinear" and old.isdisjoint(n.output)]
    return sum(joined.issuperset(n.output) for n in added)


def activation_quantizers(model: onnx.ModelProto) -> tuple[int, int]:
    """Numbers of Q and of DQ nodes that do not belong to a constant."""
    constants = {t.name for t in model.graph.initializer}
    constants |= {n.output[0] for n in model.graph.node if n.op_type == "Constant"}
    for n in model.graph.node:  # in any order, as a rewritten model is sorted and the zoo's chains are short
        if n.input and n.input[0] in constants and n.op_type in ("QuantizeLinear", "Clip"):
            constants.update(n.output)
    live = [n.op_type for n in model.graph.node if n.input and n.input[0] not in constants]
    return live.count("QuantizeLinear"), live.count("DequantizeLinear")
