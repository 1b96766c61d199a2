"""Gains are kept where the outputs gain, nothing is worse, no kernel is lost, and time allows."""

from __future__ import annotations

from typing import Any

import gained_nets
import onnx
import pytest

import onnx_ocs
from onnx_ocs.measurement.latency import Compared
from onnx_ocs.model.graph import Graph
from onnx_ocs.passes import Regrid
from onnx_ocs.regridding import even
from onnx_ocs.targets.ort import Operators


def rewritten(name: str, **options: Any) -> onnx_ocs.RewriteResult:
    model = gained_nets.build(name)
    return onnx_ocs.rewrite(model, calib=gained_nets.samples(model, 64), passes=[Regrid(**options)])


def gains_of(result: onnx_ocs.RewriteResult) -> list[dict[str, Any]]:
    return [e for e in result.report["grids"] if e["edit"] == "gains"]


@pytest.mark.parametrize("name", ["norm", "vectors", "convs", "depthwise", "gemms", "three pairs", "norm, QCDQ"])
def test_free_gains_bring_decibels_and_no_node(name: str) -> None:
    result = rewritten(name, unsigned=False)
    (entry,) = gains_of(result)
    assert entry["status"] == "applied" and entry["error_db"] > 3
    assert result.report["verification"]["verdict"] == "PASSED"
    quality = result.report["quality"]
    assert quality["sqnr_after_db"] > quality["sqnr_before_db"] + (0.5 if name == "gemms" else 4)
    assert len(result.model.graph.node) == len(gained_nets.build(name).graph.node)


@pytest.mark.parametrize("name", ["residual", "gelu"])
def test_products(name: str) -> None:
    """One node more; the residual sum reads floats."""
    result = rewritten(name, unsigned=False, max_latency=None)
    assert len(gains_of(result)) == 1
    assert result.report["verification"]["verdict"] == "PASSED"
    quality, graph = result.report["quality"], Graph(result.model)
    assert quality["sqnr_after_db"] > quality["sqnr_before_db"] + 0.5
    assert len(graph.nodes) == len(gained_nets.build(name).graph.node) + 1
    if name == "residual":
        (add,) = [n for n in graph.nodes if n.op_type == "Add" and "layernormalization1" in n.input]
        assert "layernormalization1_dq" not in add.input


@pytest.mark.parametrize("options", [{"gains": False}, {"runtime": "generic-int8"}, {"runtime": "qnn"}])
def test_no_products(options: dict[str, Any]) -> None:
    """Where they are not wanted, or the target has nothing in float between quantizers."""
    assert not gains_of(rewritten("residual", max_latency=None, **options))


def test_targets_without_floats_have_free_gains() -> None:
    assert len(gains_of(rewritten("norm", runtime="generic-int8"))) == 1


def test_a_limit_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for ratio, kept in ((1.3, 0), (1.02, 1)):
        monkeypatch.setattr(even, "compared", lambda *_, r=ratio: Compared(1.0, r, r, 0.01))
        assert len(gains_of(rewritten("residual", max_latency=1.1))) == kept


def test_a_lost_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """No product is put in where an integer operator is lost for it."""
    counts = {False: Operators(2, {}, 0), True: Operators(1, {}, 0)}

    def operators(model: onnx.ModelProto) -> Operators:
        return counts[any(n.op_type == "Mul" and n.output[0].endswith("_gained") for n in model.graph.node)]

    monkeypatch.setattr(even, "operators", operators)
    assert not gains_of(rewritten("residual", max_latency=None))


def test_what_the_outputs_lose_by_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    real = even.gained

    def spoiled(*args: Any) -> Any:
        new, done = real(*args)
        for t in new.graph.initializer:  # a weight that does not follow
            if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 2:
                t.raw_data = bytes(len(t.raw_data))
        return new, done

    monkeypatch.setattr(even, "gained", spoiled)
    assert not gains_of(rewritten("norm"))


def test_a_second_run_gives_nothing_more() -> None:
    once = rewritten("norm").model
    assert not onnx_ocs.rewrite(once, calib=gained_nets.samples(once, 64), passes=[Regrid()]).changed
