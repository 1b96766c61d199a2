"""What a block is offered: branches that surely gain, and which of them a price chooses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from onnx_ocs.compensation.blocks import Block
from onnx_ocs.compensation.menu import Menu, Observed, Offer, learn
from onnx_ocs.compensation.regression import Branch

Array = np.ndarray[Any, Any]
CHANNELS, BATCHES, HELD = 16, 8, 4
FORMS = ("diagonal", "low rank", "dense")


def block(inputs: int = 0) -> Block:
    return Block("layer", "y", 1, CHANNELS, "x" if inputs else None, (1, 1), inputs)


def observed(error: Any, seed: int = 0, source: bool = False) -> Iterator[Observed]:
    """Batches of images; the float model has what the model has, plus `error(output, source, rng)`."""
    rng = np.random.default_rng(seed)
    for k in range(BATCHES):
        y = rng.standard_normal((4, CHANNELS, 5, 5)).astype(np.float32)
        x = rng.standard_normal((4, CHANNELS, 5, 5)).astype(np.float32) if source else None
        truth = y + error(y, x, rng)
        yield Observed(k % HELD == HELD - 1, y, x, truth.astype(np.float32))


def learned(
    error: Any, like: Branch | None = None, linear: bool = True, forms: Any = FORMS, source: bool = False
) -> Menu:
    menu = Menu(block(CHANNELS if source else 0))
    learn(menu, observed(error, source=source), BATCHES, BATCHES // HELD, forms, linear, like)
    return menu


SHIFT = np.linspace(0.5, 1.5, CHANNELS).reshape(1, -1, 1, 1)
MIX = np.random.default_rng(9).standard_normal((CHANNELS, CHANNELS)) / CHANNELS


def rotated(y: Array) -> Array:
    return np.einsum("nchw,cd->ndhw", y, MIX)


def test_a_constant_error_is_offered_a_bias() -> None:
    menu = learned(lambda y, x, rng: SHIFT + 0.01 * rng.standard_normal(y.shape))
    bias = menu.offers["bias", 0]
    assert bias.macs == 0
    np.testing.assert_allclose(bias.branch.bias, SHIFT.reshape(-1), atol=0.01)
    assert sum(bias.errors) < 0.001 * sum(menu.before)
    assert len(menu.before) == len(bias.errors) == 4 * BATCHES // HELD  # one for every held-out sample


def test_before_and_signal_are_sums_of_squares() -> None:
    menu = learned(lambda y, x, rng: 0.5 * SHIFT + 0 * y)
    held = [o for o in observed(lambda y, x, rng: 0.5 * SHIFT + 0 * y) if o.held]
    truth = np.concatenate([o.truth for o in held]).astype(np.float64)
    output = np.concatenate([o.output for o in held]).astype(np.float64)
    np.testing.assert_allclose(menu.before, ((truth - output) ** 2).sum((1, 2, 3)), rtol=1e-6)
    assert menu.signal == pytest.approx((truth**2).sum(), rel=1e-6)


def test_channels_that_mix_need_a_dense_branch() -> None:
    menu = learned(lambda y, x, rng: rotated(y))
    dense = menu.offers["dense", 1]
    assert dense.macs == CHANNELS * CHANNELS * 25
    assert sum(dense.errors) < 0.01 * sum(menu.before)
    np.testing.assert_allclose(dense.branch.weights[0], MIX, atol=0.02)
    diagonal = menu.offers.get(("diagonal", CHANNELS))
    assert diagonal is None or sum(diagonal.errors) > 0.5 * sum(menu.before)


def test_a_gain_for_each_channel_is_diagonal() -> None:
    menu = learned(lambda y, x, rng: y * (SHIFT - 1) * 0.3)
    diagonal = menu.offers["diagonal", CHANNELS]
    assert diagonal.macs == CHANNELS * 25
    np.testing.assert_allclose(diagonal.branch.weights[0], 0.3 * (SHIFT.reshape(-1) - 1), atol=0.01)


def test_the_blocks_input_is_a_regressor() -> None:
    menu = learned(lambda y, x, rng: rotated(x), source=True)
    assert menu.offers["dense", 1].branch.which in ((1,), (0, 1))
    assert sum(menu.offers["dense", 1].errors) < 0.01 * sum(menu.before)


def test_noise_is_offered_nothing() -> None:
    assert learned(lambda y, x, rng: rng.standard_normal(y.shape)).offers == {}


def test_only_the_forms_that_are_wanted() -> None:
    menu = learned(lambda y, x, rng: rotated(y) + SHIFT, forms=("diagonal",))
    assert {form for form, _ in menu.offers} <= {"bias", "diagonal"} and menu.offers


def test_a_second_round_offers_the_same_kind_alone() -> None:
    def error(y: Array, x: Array, rng: Any) -> Array:
        return rotated(y) + SHIFT

    like = learned(error).offers["dense", 1].branch
    assert learned(error, like=like).offers.keys() == {("dense", 1)}


def test_values_that_are_not_finite_are_left_out() -> None:
    def error(y: Array, x: Array, rng: Any) -> Array:
        e = SHIFT + 0 * y
        e[0, 0, 0, 0], e[1, 3] = np.nan, np.inf
        return e

    menu = learned(error)
    np.testing.assert_allclose(menu.offers["bias", 0].branch.bias, SHIFT.reshape(-1), atol=1e-3)


def test_nothing_is_learned_from_held_out_batches() -> None:
    """Their error is another one: the bias is that of the others, and gains nothing there."""

    def batches() -> Iterator[Observed]:
        for k, o in enumerate(observed(lambda y, x, rng: 0 * y)):
            sign = -1 if o.held else 1
            yield Observed(o.held, o.output, None, (o.output + sign * SHIFT).astype(np.float32))
            assert k < BATCHES

    menu = Menu(block())
    learn(menu, batches(), BATCHES, BATCHES // HELD, FORMS, True, None)
    assert ("bias", 0) not in menu.offers


# ---- which one is taken ---------------------------------------------------------------------------------------------


def branch(form: str) -> Branch:
    return Branch(form, (), (), 0.0, (), None, np.zeros(2), -1.0, 1.0, ())


def test_a_price_chooses() -> None:
    """Gain is the logarithm of the error's reduction: log 2 for nothing, log 8 for 1000 MACs."""
    free, dear = Offer(branch("bias"), 0, (0.5, 0.5)), Offer(branch("dense"), 1000, (0.1, 0.15))
    menu = Menu(block(), before=(1.0, 1.0), offers={("bias", 0): free, ("dense", 1): dear})
    even = np.log(4) / 1000  # log 8 - log 2
    assert menu.best(0.0) is dear and menu.best(0.99 * even) is dear
    assert menu.best(1.01 * even) is free and menu.best(1.0) is free


def test_what_is_too_dear_is_not_taken() -> None:
    dear = Offer(branch("dense"), 1000, (0.5, 0.5))
    menu = Menu(block(), before=(1.0, 1.0), offers={("dense", 1): dear})
    assert menu.best(0.99 * np.log(2) / 1000) is dear
    assert menu.best(1.01 * np.log(2) / 1000) is None
    assert Menu(block()).best(0.0) is None
