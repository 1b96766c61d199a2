"""A worker makes a thing once, and keeps few of them."""

from __future__ import annotations

import pytest

from onnx_ocs.execution.kept import MOST, forget, kept, lent


def test_what_was_used_last_is_kept() -> None:
    forget()
    made: list[int] = []

    def get(k: int) -> int:
        return kept(k, lambda: made.append(k) or k)

    assert [get(k) for k in (1, 1, 2, 1)] == [1, 1, 2, 1] and made == [1, 2]
    for k in range(10, 10 + MOST - 1):
        get(k), get(1)
    del made[:]
    get(1), get(2)
    assert made == [2]
    forget()
    get(1)
    assert made == [2, 1]
    forget()


def test_what_one_thread_uses_at_a_time() -> None:
    """A second one is made while the first is used; one whose user failed is not lent again."""
    forget()
    made: list[int] = []

    def make() -> int:
        made.append(len(made))
        return made[-1]

    with lent("k", make) as first, lent("k", make) as second:
        assert (first, second) == (0, 1)
    with lent("k", make) as third:
        assert third == 0
    with pytest.raises(ZeroDivisionError), lent("k", make):
        raise ZeroDivisionError
    with lent("k", make) as fourth, lent("k", make) as fifth:
        assert (fourth, fifth) == (1, 2)
    forget()
