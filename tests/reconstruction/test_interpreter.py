"""QDQ graphs in torch: the numbers of onnxruntime, operator by operator and network by network, and LSQ's gradients."""

from __future__ import annotations

import numpy as np
import pytest
from zoo import CASES, build, execute

from onnx_ocs.errors import UserError
from onnx_ocs.model.graph import Graph

torch = pytest.importorskip("torch")
from onnx_ocs.reconstruction.interpreter import (  # noqa: E402
    Network,
    quantize,
    tensor,
)

SUBGRAPHS = {"branch", "inner_names"}  # cases with an If


@pytest.mark.parametrize("name", sorted(CASES.keys() - SUBGRAPHS))
def test_networks(name: str) -> None:
    """Every topology and every dialect, at ORT_DISABLE_ALL; float16 is computed in float32 here."""
    model, feed = build(name)
    with torch.no_grad():
        got = Network(Graph(model)).run({k: tensor(v) for k, v in feed.items()})
    if not CASES[name].loads:
        pytest.skip("onnxruntime does not load it")
    for (o, value), wanted in zip(got.items(), execute(model, feed), strict=True):
        exact = wanted.astype(np.float64)
        style = CASES[name].style
        tolerance = 5e-3 if style.half else 1e-4 if "16" in style.dtype else 2e-6  # of 16 bits: one step on a tie
        assert np.abs(value.numpy() - exact).max() <= tolerance * np.abs(exact).max(), o


@pytest.mark.parametrize("name", sorted(SUBGRAPHS))
def test_subgraphs_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="the operator If"):
        Network(Graph(build(name)[0]))


def test_gradients_are_those_of_lsq() -> None:
    """d(k s)/ds is round(x/s) - x/s where nothing is clipped, and the bound where something is."""
    x = torch.tensor([-0.3, 0.26, 0.61, 5.0], requires_grad=True)
    s = torch.tensor(0.25, requires_grad=True)
    (quantize(x, s, torch.zeros(()), 0, 3) * s).sum().backward()
    steps = np.asarray([0.26, 0.61]) / 0.25
    assert x.grad.tolist() == [0, 1, 1, 0]
    assert float(s.grad) == pytest.approx(float(np.sum(np.rint(steps) - steps)) + 0 + 3, rel=1e-5)


def test_what_is_left_unquantized_keeps_a_saturation_that_is_a_relu() -> None:
    x, one_step = torch.linspace(-1, 9, 41), torch.ones(())
    left = torch.ones(41, dtype=torch.bool)
    assert torch.equal(quantize(x, one_step, torch.zeros(()), 0, 3, left, 0), x.clamp(0))
    assert torch.equal(quantize(x, one_step, torch.zeros(()), 0, 3, left), x)
