"""How options are written down."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields

import pytest

from onnx_ocs.options import Option, option, required

SIZE = Option("Size.", flag="--the-size", low=1)


@dataclass(frozen=True)
class Sized:
    must: str = required("Must.", metavar="M")
    size: int = option(2, SIZE)
    other: float = option(0.5, "Other.", high=1.0)


def test_a_field_with_an_option_is_a_field() -> None:
    assert Sized("x") == Sized("x", 2, 0.5)
    with pytest.raises(TypeError):
        Sized()  # type: ignore[call-arg]


def test_the_option_can_be_read_back() -> None:
    must, size, other = fields(Sized)
    assert Option(**must.metadata) == Option("Must.", metavar="M") and must.default is MISSING
    assert Option(**size.metadata) == SIZE and size.default == 2
    assert Option(**other.metadata) == Option("Other.", high=1.0)


def test_a_word_that_options_do_not_have() -> None:
    with pytest.raises(TypeError):
        option(1, "Size.", least=1)
