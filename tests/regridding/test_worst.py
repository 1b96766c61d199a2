"""Which quantizers get 16 bits: by what they cost for their price, within the time, and no more than surely pays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
import zoo
from feeds import inputs

from onnx_ocs.calibration.judging import EVERYTHING
from onnx_ocs.measurement.latency import Compared
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.probes.reference import reference
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Region
from onnx_ocs.regridding import worst
from onnx_ocs.regridding.grids import Grid
from onnx_ocs.regridding.worst import Candidate, damages, fewest, judged, layers_around, priced, within

RNG = np.random.default_rng(0)


def candidate(name: str, damage: float, size: int = 0, **layers: int) -> Candidate:
    return Candidate((name, (name + "_q",)), Grid(1.0, 0), damage, layers, size)


def names(found: Sequence[Candidate]) -> str:
    return "".join(c.key[0] for c in found)


def test_cost_per_price_decides_and_a_layer_is_paid_once() -> None:
    a, b, c = candidate("a", 9.0, first=100, second=100), candidate("b", 6.0, second=100), candidate("c", 5.0, third=99)
    assert names(priced([c, b, a], None)) == "abc", "where time costs nothing, by what they cost"
    assert names(priced([a, b, c], 1.0)) == "bac", "b's layer is a's, so a pays half of its price"
    assert names(priced([a, b, c], 0.7)) == "ba" and names(priced([a, b, c], 0.34)) == "b"
    assert names(priced([candidate("d", 5.0, first=1000), b], 0.2)) == "b", "what finds no room is passed over"
    assert names(priced([a, candidate("e", 0.001)], None)) == "a", "what costs nothing is left"
    assert a.price({"first"}) == 100 and candidate("f", 1.0, size=3).price() == 3 * worst.ELEMENT


def test_the_time_is_measured_until_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [candidate(c, 8.0, **{c: 100}) for c in "abcdefgh"]
    slow = {8: 1.8, 7: 1.7, 6: 1.6, 5: 1.5, 4: 1.4, 3: 1.09, 2: 1.05, 1: 1.02}
    asked: list[int] = []

    def compared(_: object, n: int, *__: object) -> Compared:
        asked.append(n)
        return Compared(1.0, slow[n], slow[n], 0.0)

    monkeypatch.setattr(worst, "compared", compared)
    within_limit = [len(within(onnx.ModelProto(), found, len, t, {})) for t in (1.1, 2.0, 1.0)]  # type: ignore[arg-type]
    assert within_limit == [3, 8, 0]
    assert max(asked) == 8
    monkeypatch.setattr(worst, "compared", lambda *_: None)
    assert len(within(onnx.ModelProto(), found, len, 1.1, {})) == 8  # type: ignore[arg-type]


def test_what_one_measurement_cannot_tell_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tolerances = iter([0.3, 0.01])
    monkeypatch.setattr(worst, "compared", lambda *_: Compared(1.0, 1.05, 1.05, next(tolerances)))
    assert worst._holds(onnx.ModelProto(), onnx.ModelProto(), 1.1, {})
    assert next(tolerances, None) is None


@pytest.mark.parametrize(
    ("useful", "wanted"), [(0, 0), (1, 1), (2, 2), (3, 3), (5, 5), (7, 7), (8, 8)],
)  # fmt: skip
def test_no_more_than_surely_pays(useful: int, wanted: int) -> None:
    """Each of the first is worth 1 dB on every feed, the others nothing."""
    noise = RNG.uniform(0.5, 1.5, (1, 32))
    asked: list[int] = []

    def losses(n: int) -> tuple[np.ndarray, float]:
        asked.append(n)
        return noise * 10 ** (-0.1 * min(n, useful)), 0.0

    assert fewest(8, losses) == wanted
    assert len(asked) == len(set(asked)) <= 7


def test_no_output_pays_for_another() -> None:
    def losses(n: int) -> tuple[np.ndarray, float]:
        return np.asarray([[0.5**n] * 8, [1 + 0.1 * n] * 8]), 0.0

    assert fewest(4, losses) == 0
    assert fewest(4, lambda n: (np.ones((1, 8)), float(min(n, 2)))) == 2, "the user's metric decides"
    assert fewest(4, lambda _: (np.ones((0, 8)), 0.0)) == 0


def regions(model: onnx.ModelProto) -> list[Region]:
    return [r for r in find_regions(Graph(model), infer_shapes(model)) if isinstance(r, Region)]


def test_layers_around_a_tensor() -> None:
    model, _ = zoo.build("residual")
    shapes = infer_shapes(model, {k: v.shape for k, v in inputs(model, 1).items()})
    found = {r.tensor: layers_around(Graph(model), r, shapes) for r in regions(model)}
    assert found["x"].keys() == {"conv1"} and found["conv2"].keys() == {"conv2"}
    assert set(found["relu1"]) >= {"conv1", "conv2"}, "who writes it, and who reads it"
    assert all(n > 0 for layers in found.values() for n in layers.values())


def test_damage_is_what_a_quantizer_does_alone() -> None:
    model, _ = zoo.build("residual")
    found = regions(model)
    feeds = [{k: v[i : i + 1] for k, v in inputs(model, 2).items()} for i in range(2)]
    truth = reference(model, found)
    cost = damages(model, found, [0, 1, 2], feeds, truth, EVERYTHING)
    assert cost is not None and cost.shape == (3,) and (cost > 0).all()
    for k, value in enumerate(cost[:2]):
        alone = reference(model, [r for i, r in enumerate(found) if i != k])
        errors = [zoo.execute(alone, f)[0].astype(np.float64) - zoo.execute(truth, f)[0] for f in feeds]
        assert value == pytest.approx(sum((e**2).sum() for e in errors), rel=0.01)


def test_a_model_that_gets_no_better_keeps_its_bits() -> None:
    model, _ = zoo.build("residual")
    feeds = [{k: v[i : i + 1] for k, v in inputs(model, 4).items()} for i in range(4)]
    truth = reference(model, regions(model))
    assert judged(truth, model, feeds, EVERYTHING, 3, lambda _: model) == 0
    assert judged(truth, model, feeds, EVERYTHING, 3, lambda _: truth) == 1
