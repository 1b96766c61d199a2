"""Arrays that are kept come back, from memory or from files, and go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_ocs.reconstruction.shelf import Shelf

A, B = np.arange(10, dtype=np.float64), np.arange(12, dtype=np.int8).reshape(3, 4)


def test_what_does_not_fit_memory_goes_to_files(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, A.nbytes)
    shelf.put("a", A)
    assert not list(tmp_path.iterdir())
    shelf.put(("b", 1), B)
    assert len(list(tmp_path.iterdir())) == 1
    assert shelf.get("a")[0] is A
    (got,) = shelf.get(("b", 1))
    assert got.dtype == B.dtype and np.array_equal(got, B)


def test_what_is_dropped_makes_room(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, A.nbytes)
    shelf.put("a", A)
    shelf.put("b", B)
    shelf.drop("b")
    assert not list(tmp_path.iterdir())
    shelf.drop("a")
    shelf.drop("a")  # nothing is there any more
    shelf.put("c", A + 1)
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyError):
        shelf.get("a")


def test_a_key_that_is_put_again_holds_the_last_array(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, A.nbytes)
    for value in (A, A * 2, A * 3):
        shelf.put("a", value)
    assert np.array_equal(shelf.get("a")[0], A * 3) and not list(tmp_path.iterdir())


def test_several_arrays_have_one_key(tmp_path: Path) -> None:
    """Of any type and shape, views included; what has no bytes of its own stays in memory."""
    shelf = Shelf(tmp_path, 0)
    given = A[::2], B.T, np.zeros((0, 3), np.float32), np.asarray(7)
    shelf.put("a", *given)
    assert len(list(tmp_path.iterdir())) == 1
    for got, wanted in zip(shelf.get("a"), given, strict=True):
        assert got.dtype == wanted.dtype and got.shape == wanted.shape and np.array_equal(got, wanted)
    words = np.asarray(["one", "two"], object)
    shelf.put("a", words)
    assert shelf.get("a")[0] is words and not list(tmp_path.iterdir())
