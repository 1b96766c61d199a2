"""The arithmetic of compensation branches, against numpy's own solvers."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_ocs.compensation.blocks import Block
from onnx_ocs.compensation.menu import Menu, Observed, learn
from onnx_ocs.compensation.regression import (
    GROUPED,
    RIDGES,
    TINY,
    Branch,
    Moments,
    _System,
    branch,
    lowered,
    variants,
)
from onnx_ocs.records.branches import blt, inverse_blt

RNG = np.random.default_rng(0)


def moments(inputs: list[np.ndarray], target: np.ndarray, betas: tuple[float, ...] = (0.0,), parts: int = 3) -> Moments:
    """Summed up in unequal parts."""
    m = Moments([i.shape[1] for i in inputs], target.shape[1], betas)
    cuts = np.cumsum(np.arange(1, parts)) * len(target) // sum(range(1, parts + 1))
    for *xs, t in zip(*(np.split(a, cuts) for a in (*inputs, target)), strict=True):
        m.add(xs, [blt(t, b) for b in betas])
    return m


def problem(n: int = 400, noise: float = 0.1, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Two regressors, 6 and 4 channels, and what depends on both (6 channels)."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, 6)) * 2 + 0.3, rng.standard_normal((n, 4)) - 1
    w = np.random.default_rng(99).standard_normal((10, 6))
    return [x, y], np.concatenate([x, y], 1) @ w + 0.7 + noise * rng.standard_normal((n, 6))


@pytest.mark.parametrize("alpha", [0.0, 1e-6, 0.3, 5.0, 1e6])
def test_blt_is_undone(alpha: float) -> None:
    x = np.concatenate([[0.0], np.geomspace(1e-12, 1e12, 50), -np.geomspace(1e-12, 1e12, 50)])
    z = blt(x, alpha)
    assert np.all(np.sign(z) == np.sign(x)) and np.all(np.diff(blt(np.sort(x), alpha)) > 0)
    np.testing.assert_allclose(inverse_blt(z, alpha), x, rtol=1e-9)
    if alpha:
        np.testing.assert_allclose(z[1:51], np.log1p(alpha * x[1:51]), rtol=1e-12)


def test_blt_goes_to_the_identity() -> None:
    x = RNG.standard_normal(100)
    errors = [np.abs(blt(x, a) / a - x).max() for a in (1e-1, 1e-3, 1e-5)]
    assert errors[0] > 50 * errors[1] > 2500 * errors[2] and errors[2] < 1e-4
    assert blt(x, 0.0) is x


def test_moments_are_sums() -> None:
    inputs, target = problem()
    m = moments(inputs, target, (0.0, 0.5))
    f = np.concatenate([np.ones((len(target), 1)), *inputs], 1)
    np.testing.assert_allclose(m.gram, f.T @ f)
    for k, b in enumerate(m.betas):
        np.testing.assert_allclose(m.cross[k], f.T @ blt(target, b), rtol=1e-10, atol=1e-8)
        np.testing.assert_allclose(m.ranges[k], [blt(target, b).min(), blt(target, b).max()])
    assert m.count == len(target) and np.isclose(m.square, (target**2).sum())
    w = RNG.standard_normal(m.cross[0].shape)
    assert np.isclose(_System(m, (0, 1)).error(w[None]), ((target - f @ w) ** 2).sum())


@pytest.mark.parametrize("beta", [0, 1], ids=["linear", "bipolar"])
def test_dense_is_ridge_regression(beta: int) -> None:
    """The same as least squares on rows that stand for the ridge."""
    inputs, target = problem()
    m = moments(inputs, target, (0.0, 0.4))
    found = [c for c in variants(m, moments(*problem(seed=1)), ["dense"]) if c.form == "dense"]
    assert {c.which for c in found} == {(0,), (1,), (0, 1)}
    for c in found:
        f = np.concatenate([np.ones((len(target), 1)), *(inputs[k] for k in c.which)], 1)
        strength = (c.ridge + TINY) * np.diag(f.T @ f / len(f))[1:].mean() + TINY
        rows = np.sqrt(strength * len(f)) * np.eye(f.shape[1])[1:]
        right = np.concatenate([blt(target, m.betas[beta]), np.zeros((len(rows), 6))])
        expected = np.linalg.lstsq(np.concatenate([f, rows]), right, rcond=None)[0]
        b = branch(c, m, beta, (0.0, 0.0), (1e9, 1e9))
        np.testing.assert_allclose(np.concatenate([b.bias[None], *b.weights]), expected, atol=1e-8)


def test_bias_is_the_mean() -> None:
    inputs, target = problem()
    m = moments(inputs, target)
    (c,) = variants(m, m, [])
    b = branch(c, m, 0, (0.0, 0.0), (1.0, 1.0))
    assert (c.form, b.kind, b.macs, b.weights) == ("bias", ("bias", 0), 0, ())
    np.testing.assert_allclose(b.predict([]), target.mean(0)[None])
    m = moments(inputs, target, (0.0, 0.5))
    b = branch(next(variants(m, m, [])), m, 1, (0.0, 0.0), (1.0, 1.0))
    assert b.beta == 0  # it is a constant in the model's own domain
    np.testing.assert_allclose(b.predict([])[0], inverse_blt(blt(target, 0.5).mean(0), 0.5))


def test_diagonal_is_a_regression_for_each_channel() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((300, 5)), rng.standard_normal((300, 5))
    target = x * np.arange(1, 6) - 0.5 * y + 0.2
    m = moments([x, y], target)
    (both,) = [c for c in variants(m, m, ["diagonal"]) if c.which == (0, 1)]
    assert both.ridge == RIDGES[0]  # nothing to shrink: there is no noise
    b = branch(both, m, 0, (0.0, 0.0), (9.0, 9.0))
    assert [w.shape for w in b.weights] == [(5,), (5,)] and b.macs == 10
    for c in range(5):
        f = np.stack([np.ones(300), x[:, c], y[:, c]], 1)
        expected = np.linalg.lstsq(f, target[:, c], rcond=None)[0]
        np.testing.assert_allclose([b.bias[c], b.weights[0][c], b.weights[1][c]], expected, atol=1e-3)


def test_diagonal_needs_equal_channels() -> None:
    inputs, target = problem()
    m = moments(inputs, target)
    assert {c.which for c in variants(m, m, ["diagonal"]) if c.form == "diagonal"} == {(0,)}


@pytest.mark.parametrize("beta", [0, 1], ids=["linear", "bipolar"])
@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)], ids=["output", "input", "both"])
def test_groups_are_regressions_of_their_own(which: tuple[int, ...], beta: int) -> None:
    """Each group of the output sees its own group of every regressor, and the closed form is that of least squares."""
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((700, 64)), rng.standard_normal((700, 32))
    weights = [rng.standard_normal((n, 64)) / 8 for n in (64, 32)]
    target = x @ weights[0] + y @ weights[1] + 0.3
    m = moments([x, y], target, (0.0, 0.4))
    found = {c.groups: c for c in variants(m, m, ["grouped"]) if c.form == "grouped" and c.which == which}
    assert found.keys() == {64 // size for size in GROUPED}
    for groups, c in found.items():
        b = branch(c, m, beta, (0.0, 0.0), (9.0, 9.0))
        assert b.kind == ("grouped", groups) and b.macs == sum((64, 32)[k] for k in which) * 64 // groups
        expected = []
        for g in range(groups):
            f = np.concatenate([np.ones((700, 1)), *(np.split((x, y)[k], groups, 1)[g] for k in which)], 1)
            t = blt(np.split(target, groups, 1)[g], m.betas[beta])
            expected.append(f @ np.linalg.lstsq(f, t, rcond=None)[0])
        z = np.clip(np.concatenate(expected, 1), b.low, b.high)
        np.testing.assert_allclose(b.predict([(x, y)[k] for k in which]), inverse_blt(z, b.beta), atol=2e-3)
        left = ((target - branch(c, m, 0, (0.0, 0.0), (9.0, 9.0)).predict([(x, y)[k] for k in which])) ** 2).sum()
        assert np.isclose(left, c.error, rtol=0.02)  # but for the bounds


@pytest.mark.parametrize(
    ("sizes", "channels", "groups"),
    [
        ((64,), 64, {8, 2}),
        ((16,), 16, {2}),
        ((8,), 8, set()),
        ((40,), 40, {5}),
        ((24, 12), 24, {3}),
        ((24, 20), 24, {3}),
    ],
)
def test_groups_that_divide(sizes: tuple[int, ...], channels: int, groups: set[int]) -> None:
    """Groups of 8 or 32 channels, more than one, that divide the output's and the regressors' channels."""
    rng = np.random.default_rng(6)
    inputs = [rng.standard_normal((90, n)) for n in sizes]
    m = moments(inputs, rng.standard_normal((90, channels)))
    found = [c for c in variants(m, m, ["grouped"]) if c.form == "grouped"]
    assert {c.groups for c in found} == groups
    for c in found:
        assert all(sizes[k] % c.groups == 0 for k in c.which)
    if len(sizes) > 1:  # 20 channels are not 3 groups of equal size: the output alone is the regressor
        assert ((0, 1) in {c.which for c in found}) == (sizes[1] % 3 == 0)


def test_low_rank_is_the_best_projection() -> None:
    """Reduced-rank regression: no other projection of the prediction leaves less, and its mean stays what it is."""
    rng = np.random.default_rng(5)
    x = 0.5 + rng.standard_normal((500, 16)) * np.linspace(0.2, 3, 16)
    w = rng.standard_normal((16, 2)) @ rng.standard_normal((2, 16))
    target = x @ w + 0.05 * rng.standard_normal((500, 16))
    m = moments([x], target)
    (c,) = [c for c in variants(m, m, ["dense"]) if c.form == "dense"]
    dense = branch(c, m, 0, (0.0,), (99.0,))
    found = {b.kind: b for b in lowered(dense, m)}
    assert found.keys() == {("low rank", r) for r in (1, 2, 4)}
    one, two = found["low rank", 1], found["low rank", 2]
    assert two.macs == 2 * (16 + 16) < dense.macs == 256
    assert two.back is not None and np.allclose(two.back @ two.back.T, np.eye(2))
    f = dense.predict([x])
    values = np.linalg.svd(f - f.mean(0), compute_uv=False)
    left = {}
    for b, r in ((one, 1), (two, 2)):
        np.testing.assert_allclose(b.predict([x]).mean(0), target.mean(0), atol=0.05)
        assert ((f - b.predict([x])) ** 2).sum() <= (values[r:] ** 2).sum() * 1.05 + 1e-6
        left[r] = ((target - b.predict([x])) ** 2).sum()
    assert left[2] < 1.1 * c.error < 0.2 * left[1]


def test_held_out_samples_choose_the_ridge() -> None:
    """Many channels, few positions, noise: more ridge is better, and the errors told are those of the held-out."""
    rng = np.random.default_rng(7)
    x, h = rng.standard_normal((30, 25)), rng.standard_normal((400, 25))
    w = 0.05 * rng.standard_normal((25, 25))
    fit, held = (
        moments([x], x @ w + rng.standard_normal((30, 25))),
        moments([h], h @ w + rng.standard_normal((400, 25))),
    )
    (c,) = [c for c in variants(fit, held, ["dense"]) if c.form == "dense"]
    b = branch(c, fit, 0, (0.0,), (99.0,))
    w = np.concatenate([b.bias[None], *b.weights])
    assert c.ridge == max(RIDGES) and np.isclose(c.error, _System(held, (0,)).error(w[None])) and c.error > held.square


def test_constant_and_equal_channels() -> None:
    """Equations that have no single solution: still finite, and still a good prediction."""
    rng = np.random.default_rng(8)
    x = rng.standard_normal((200, 4))
    x = np.concatenate([x, x[:, :2], np.zeros((200, 2)), np.ones((200, 1))], 1)
    target = x[:, :3] * 2 + 1
    m = moments([x], target)
    for c in variants(m, m, ["dense", "diagonal"]):
        b = branch(c, m, 0, (0.0,), (9.0,))
        assert all(np.isfinite(v).all() for v in (b.bias, *b.weights)) and c.error < m.square
    wide = np.tile(x, 16)
    m = moments([wide], np.tile(target, 48))
    for c in variants(m, m, ["dense", "low rank", "grouped"]):
        b = branch(c, m, 0, (0.0,), (9.0,))
        for one in (b, *(lowered(b, m) if c.form == "dense" else ())):
            assert all(np.isfinite(v).all() for v in (one.bias, *one.weights)) and c.error < m.square
    zero = moments([0 * x], 0 * target)
    for c in variants(zero, zero, ["dense", "low rank", "diagonal"]):
        b = branch(c, zero, 0, (0.0,), (9.0,))
        assert c.error == 0 and all(np.abs(v).max() == 0 for v in (b.bias, *b.weights))


@pytest.mark.parametrize("beta", [0, 1], ids=["linear", "bipolar"])
@pytest.mark.parametrize("form", ["diagonal", "grouped", "low rank", "dense"])
def test_predictions_are_bounded(form: str, beta: int) -> None:
    rng = np.random.default_rng(9)
    x = np.abs(rng.standard_normal((300, 16)))
    target = np.sin(3 * x) @ rng.standard_normal((16, 16))
    alpha = 0.7
    m = moments([blt(x, alpha)], target, (0.0, 2.0))
    c = next(c for c in variants(m, m, [form]) if c.form == ("dense" if form == "low rank" else form))
    b = branch(c, m, beta, (alpha,), (float(x.max()),))
    b = next(lowered(b, m)) if form == "low rank" else b
    assert b.form == form
    for fed in (x, 0 * x, 1e30 * x, -1e30 * x, 1e300 * rng.standard_normal(x.shape), 1e-300 * x):
        p = b.predict([fed])
        assert np.isfinite(p).all()
        assert p.min() >= target.min() - 1e-9 and p.max() <= target.max() + 1e-9


def test_prediction_is_the_formula() -> None:
    x, y = RNG.standard_normal((50, 3)), RNG.standard_normal((50, 2))
    w, v, c = RNG.standard_normal((3, 4)), RNG.standard_normal((2, 4)), RNG.standard_normal(4)
    b = Branch("dense", (0, 1), (0.5, 0.0), 0.3, (w, v), None, c, -1.0, 1.5, (1.0, 2.0))
    z = np.sign(x) * np.log(1 + 0.5 * np.minimum(np.abs(x), 1)) @ w + np.clip(y, -2, 2) @ v + c
    z = np.clip(z, -1, 1.5)
    np.testing.assert_allclose(b.predict([x, y]), np.sign(z) * (np.exp(np.abs(z)) - 1) / 0.3)
    assert b.macs == 20


def learned(y: np.ndarray, truth: np.ndarray, batches: int = 8, linear: bool = False) -> Menu:
    """What a block with these values and this truth, (N, C), is offered; every fourth batch is held out."""
    menu = Menu(Block("layer", "y", 1, y.shape[1]))
    parts = zip(np.array_split(y, batches), np.array_split(truth, batches), strict=True)
    seen = (Observed(k % 4 == 3, p, None, t) for k, (p, t) in enumerate(parts))
    learn(menu, seen, batches, batches // 4, ("diagonal", "grouped", "low rank", "dense"), linear, None)
    return menu


def test_groups_are_offered_where_channels_mix_in_groups() -> None:
    rng = np.random.default_rng(14)
    y = rng.standard_normal((512, 16)).astype(np.float32)
    mixed = np.einsum("pgi,gio->pgo", y.reshape(-1, 2, 8), rng.standard_normal((2, 8, 8))).reshape(-1, 16)
    menu = learned(y, (y + 0.5 * mixed).astype(np.float32))
    assert sum(menu.offers["grouped", 2].errors) < 0.01 * sum(menu.before)
    assert ("diagonal", 16) not in menu.offers or sum(menu.offers["diagonal", 16].errors) > 0.5 * sum(menu.before)
    best = menu.best(1e-4)
    assert best is not None and best.branch.kind == ("grouped", 2)  # as good as the dense one, for half of its MACs
    assert best.macs == 128 == menu.offers["dense", 1].macs / 2


def test_noise_gets_no_offer() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        y = rng.standard_normal((256, 16)).astype(np.float32)
        noise = rng.standard_normal(y.shape).astype(np.float32)
        assert learned(y, y + noise).offers == {}


def test_few_samples_and_many_channels_get_no_offer() -> None:
    """Equations that can be solved exactly: all error gone on what was fitted, more of it elsewhere."""
    rng = np.random.default_rng(11)
    y = rng.standard_normal((64, 200)).astype(np.float32)
    truth = y + (0.5 * rng.standard_normal(y.shape)).astype(np.float32)
    fit, held = slice(0, 48), slice(48, 64)
    f = [np.concatenate([np.ones((len(y[s]), 1)), y[s]], 1) for s in (fit, held)]
    w = np.linalg.lstsq(f[0], (truth - y)[fit], rcond=None)[0]
    errors = [((truth[s] - y[s] - g @ w) ** 2).sum() for s, g in ((fit, f[0]), (held, f[1]))]
    assert errors[0] < 1e-6 < ((truth - y)[held] ** 2).sum() < errors[1]
    assert learned(y, truth).offers == {}


def test_what_can_be_learned_is_offered() -> None:
    rng = np.random.default_rng(12)
    y = rng.standard_normal((512, 16)).astype(np.float32)
    truth = (1.5 * y + 0.3 + 0.05 * rng.standard_normal(y.shape)).astype(np.float32)
    menu = learned(y, truth)
    assert {form for form, _ in menu.offers} >= {"diagonal", "dense"}
    assert sum(menu.offers["diagonal", 16].errors) < 0.05 * sum(menu.before)
    best = menu.best(0.0)
    assert best is not None and best.branch.form == "diagonal"
    free = menu.best(1e9)
    assert free is not None and free.macs == 0
    # positions that are not finite anywhere say nothing
    holes = y.copy()
    holes[::5, 3], truth[::7, 0] = np.nan, np.inf
    again = learned(holes, truth)
    for o in again.offers.values():
        assert all(np.isfinite(e) for e in o.errors) and np.isfinite(o.branch.bias).all()
    assert sum(again.offers["diagonal", 16].errors) < 0.05 * sum(again.before)
    assert learned(np.full_like(y, np.nan), truth).offers == {}


def test_linear_offers_are_linear() -> None:
    y = np.random.default_rng(13).standard_normal((256, 4)).astype(np.float32)
    menu = learned(y, y + 0.2 * np.abs(y), linear=True)
    assert menu.offers
    assert all(o.branch.beta == 0 and not any(o.branch.alphas) for o in menu.offers.values())
