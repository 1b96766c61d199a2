"""Work side by side comes back in order, and no more of it is begun than asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from onnx_ocs.runtime import threads as parallel
from onnx_ocs.runtime.threads import TOGETHER, in_order, share, side_by_side, slices


@pytest.fixture(params=[1, 2, 5])
def cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(parallel, "CORES", request.param)
    return int(request.param)


def test_results_have_the_order_of_the_items(cores: int) -> None:
    def late(k: int) -> int:
        time.sleep(0.02 if k == 0 else 0)
        return k * k

    assert side_by_side(late, range(7)) == list(in_order(late, range(7), 3)) == [k * k for k in range(7)]
    assert side_by_side(late, []) == list(in_order(late, [], 3)) == []


def test_as_many_at_once_as_there_are_cores(cores: int) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work(_: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    side_by_side(work, range(10))
    assert most == cores


def test_the_first_exception_is_raised(cores: int) -> None:
    def work(k: int) -> int:
        if k in (2, 4):
            raise ValueError(f"item {k}")
        return k

    with pytest.raises(ValueError, match="item 2"):
        side_by_side(work, range(6))
    got = []
    with pytest.raises(ValueError, match="item 2"):
        got.extend(in_order(work, range(6), 2))


def test_items_are_taken_as_they_are_needed() -> None:
    """Two are worked on, one waits; what has been given is no longer held."""
    taken = []

    def items() -> Iterator[int]:
        for k in range(9):
            taken.append(k)
            yield k

    results = in_order(lambda k: k, items(), 2)
    assert not taken
    for k in range(4):
        assert next(results) == k
        assert len(taken) == k + 3


@pytest.mark.parametrize(("cores", "at_once", "threads"), [(1, 4, 1), (2, 4, 1), (2, 2, 1), (16, 4, 4), (16, 3, 6)])
def test_runs_side_by_side_share_the_cores(
    cores: int, at_once: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "CORES", cores)
    assert share(at_once) == threads


@pytest.mark.parametrize("samples", [*range(1, 12), 64])
def test_no_slice_has_one_sample(samples: int) -> None:
    """Of many: onnxruntime adds up in another order for one alone."""
    sizes = [s.stop - s.start for s in slices(samples)]
    assert sum(sizes) == samples and all(s == TOGETHER for s in sizes[:-1])
    assert sizes[-1] < 2 * TOGETHER and (samples == 1 or sizes[-1] >= TOGETHER)
