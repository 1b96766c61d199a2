"""A worker makes a thing once, and keeps few of them."""

from __future__ import annotations

from onnx_ocs.execution.kept import MOST, forget, kept


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
