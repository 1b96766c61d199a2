"""Four processes' shards merged are one process's statistics, and the plan is the same."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zoo

from onnx_ocs import api
from onnx_ocs.errors import UserError
from onnx_ocs.planning.options import PlanOptions

MODEL, FEED = zoo.build("residual")
Data = tuple[str, list[Path]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Samples, of which the first 100 are calibrated on, and the statistics of four shards of these."""
    folder = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(4)
    np.savez(folder / "c.npz", x=rng.standard_normal((120, *FEED["x"].shape[1:])).astype(np.float32))
    paths = [folder / f"{k}.npz" for k in range(1, 5)]
    for k, path in enumerate(paths, 1):
        api.calibrate(MODEL, str(folder / "c.npz"), (k, 4), limit=100).save(path)
    return str(folder / "c.npz"), paths


def test_merged_in_any_order(data: Data, tmp_path: Path) -> None:
    calib, parts = data
    whole = api.calibrate(MODEL, calib, limit=100).to_bytes()
    for order in itertools.islice(itertools.permutations(parts), 0, None, 5):
        assert api.merge(order).to_bytes() == whole
    api.merge(parts[1:3], partial=True).save(tmp_path / "some.npz")
    assert api.merge([parts[3], tmp_path / "some.npz", parts[0]]).to_bytes() == whole


def test_the_plan_is_the_same(data: Data, tmp_path: Path) -> None:
    calib, parts = data
    api.merge(parts).save(tmp_path / "s.npz")
    options: dict[str, Any] = {"effort": "quick", "budget": 0.2, "copies": 2}
    with_file = api.plan(MODEL, calib, PlanOptions(stats=tmp_path / "s.npz", **options), limit=100)[0]
    without = api.plan(MODEL, calib, PlanOptions(**options), limit=100)[0]
    assert with_file.to_json() == without.to_json() and without.regions
    with pytest.raises(UserError, match=r"1\.npz: feed 3 of 13 is missing"):
        api.plan(MODEL, calib, PlanOptions(stats=parts[0]), limit=100)


def test_what_is_not_merged(data: Data, tmp_path: Path) -> None:
    calib, parts = data

    def refused(*paths: Path) -> str:
        with pytest.raises(UserError) as error:
            api.merge(paths)
        return str(error.value)

    def saved(name: str, model: onnx.ModelProto, calib: Any, limit: int = 100) -> Path:
        api.calibrate(model, calib, (2, 4), limit=limit).save(tmp_path / name)
        return tmp_path / name

    assert refused() == "there is nothing to merge: give the statistics of all shards"
    assert refused(*parts[::2]) == "feeds 3 to 5, 9 to 12 of 13 are in none of the files: calibrate the missing shards"
    assert refused(parts[0], parts[1], parts[0]).endswith(f"{parts[0]} both have feed 0: give each shard once")
    limited = saved("limit.npz", MODEL, calib, 101)
    assert "other settings (--samples 100 and 101)" in refused(parts[0], limited)
    with np.load(calib) as archive:
        turned = saved("turned.npz", MODEL, {k: v[::-1] for k, v in archive.items()})
    assert "are of other samples each" in refused(parts[0], turned)
    other = onnx.ModelProto()
    other.CopyFrom(MODEL)
    other.producer_name = "another"
    assert "belong to another model" in refused(parts[0], saved("other.npz", other, calib))
    np.savez(tmp_path / "no.npz", x=np.zeros(3))
    assert refused(tmp_path / "no.npz").startswith(f"{tmp_path / 'no.npz'}: not a statistics file")


def test_shards_that_are_none(data: Data) -> None:
    with pytest.raises(UserError, match="there is no shard 5 of 4"):
        api.calibrate(MODEL, data[0], (5, 4))
