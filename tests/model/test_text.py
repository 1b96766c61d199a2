"""JSON that anybody may have written."""

from __future__ import annotations

import pytest

from onnx_ocs.model.text import from_json


def test_what_it_says() -> None:
    assert from_json('{"a": [1, null]}') == from_json(b'{"a": [1, null]}') == {"a": [1, None]}


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, '{"a":' * 100_000, b"\xff", "9" * 6000])
def test_all_that_is_none_is_one_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        from_json(text)
