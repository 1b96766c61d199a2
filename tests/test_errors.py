"""What another package's exception says, in one line."""

from __future__ import annotations

import pytest

from onnx_ocs.errors import PassError, UserError, VerificationError, first_line


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("one"), "one"),
        (ValueError("\n  first \nsecond"), "first "),
        (ValueError(""), "ValueError"),
        (KeyError("x"), "'x'"),
        (ValueError("a" * 500), "a" * 300),
    ],
)
def test_first_line(error: Exception, said: str) -> None:
    assert first_line(error) == said


def test_its_length() -> None:
    assert first_line(ValueError("abcdef"), 3) == "abc"


def test_a_users_mistake_is_no_defect() -> None:
    """The command line tells them apart by their kinds, so none may be another."""
    kinds = (UserError, PassError, VerificationError)
    assert all(not issubclass(a, b) for a in kinds for b in kinds if a is not b)
