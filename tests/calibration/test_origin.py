"""Statistics are only added where they belong together, each feed once."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from onnx_ocs.calibration.origin import Origin, shard
from onnx_ocs.errors import UserError

ONE = Origin("m", {"--samples": 9, "--float": "a"}, 10, ((0, 4),), "1 2")


@pytest.mark.parametrize(("feeds", "of"), [(10, 3), (3, 8), (0, 2), (64, 64)])
def test_shards_cover_all_feeds_once(feeds: int, of: int) -> None:
    parts = [shard(k, of, feeds) for k in range(1, of + 1)]
    assert [f for a, b in parts for f in range(a, b)] == list(range(feeds))
    sizes = [b - a for a, b in parts]
    assert max(sizes) - min(sizes) <= 1
    for k in (0, of + 1):
        with pytest.raises(UserError, match="there is no shard"):
            shard(k, of, feeds)


def test_parts_in_any_order() -> None:
    parts = [replace(ONE, parts=(r,)) for r in ((0, 4), (4, 7), (7, 7), (7, 10))]
    for order in itertools.permutations(parts):
        total = order[0]
        for p in order[1:]:
            total = total.joined(p)
        assert total.parts == ((0, 10),) and not total.missing
    assert ONE.joined(parts[3]).missing == [(4, 7)] and ONE.missing == [(4, 10)]
    assert Origin.from_json(total.to_json()) == total


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "n"}, "a and b belong to another model each"),
        ({"settings": {"--samples": 8, "--float": "a"}}, "a and b were made with other settings (--samples 9 and 8)"),
        ({"settings": {"--samples": 9}}, "a and b were made with other settings (--float a and None)"),
        ({"feeds": 11}, "a and b are of other samples each"),
        ({"probe": "3 2"}, "a and b are of other samples each"),
        ({"probe": "1 3"}, "a and b were made by machines that compute other activations"),
        ({"parts": ((3, 5),)}, "a and b both have feed 3"),
    ],
)
def test_what_does_not_belong_together(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        ONE.joined(replace(ONE, **{"parts": ((4, 5),), **change}), ("a", "b"))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"parts": []}', '{"parts": [], "model": "m", "more": 1}'])
def test_text_that_is_none(text: str) -> None:
    with pytest.raises((ValueError, TypeError, LookupError, AttributeError)):
        Origin.from_json(text)
