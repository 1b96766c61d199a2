"""Numbers and names as people read them."""

from __future__ import annotations

from typing import Any

import pytest

from onnx_ocs.report.format import (
    MOST,
    changed,
    counted,
    cut_name,
    db_or_dash,
    decibels,
    declared,
    from_to,
    number,
    percent,
    readable,
    shortened,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0.123456, "0.1235"),
        (12, "12"),
        (1e-7, "1e-07"),
        ([0.5, 0.25, 1], "0.25..1"),
        ([0.5, 0.5], "0.5"),
        ([0.50000001, 0.5], "0.5"),  # what reads the same is said once
        ([], "0"),
    ],
)
def test_numbers(value: Any, text: str) -> None:
    assert number(value) == text


def test_a_change_is_shown_where_there_is_one() -> None:
    assert changed(0.5, 0.25) == "0.5 → 0.25"
    assert changed(0.5, 0.50000001) == "0.5" == changed(0.5, None)
    assert changed([1, 2], [1, 4]) == "1..2 → 1..4"


def test_shares_and_decibels() -> None:
    assert percent(0.01234) == "1.23 %" and percent(None) == ""
    assert decibels(12.345) == "12.35 dB" or decibels(12.345) == "12.34 dB"
    assert decibels(None) == decibels(float("inf")) == "identical"
    assert db_or_dash(None) == "–" and db_or_dash(-3.0) == "-3.00 dB"


def test_from_one_value_to_another() -> None:
    assert from_to(1.0, 2.5, "dB") == "1.00 → 2.50\N{NO-BREAK SPACE}dB"
    assert from_to(0.25, 0.5, "%", 100) == "25.00 → 50.00\N{NO-BREAK SPACE}%"
    assert from_to(1.001, 1.002, "ms") == "1.00\N{NO-BREAK SPACE}ms"
    assert from_to(None, 2.0, "ms") == "– → 2.00\N{NO-BREAK SPACE}ms"
    assert from_to(None, None, "ms") == "–\N{NO-BREAK SPACE}ms"


@pytest.mark.parametrize("width", [2, 5, 9])
def test_a_shortened_name_keeps_its_end_and_fits(width: int) -> None:
    assert shortened("abcdefgh", width) == {2: "…h", 5: "…efgh", 9: "abcdefgh"}[width]


def test_a_name_is_cut_in_its_middle() -> None:
    name = "".join(chr(97 + k % 26) for k in range(121))
    assert cut_name(name[:120]) == name[:120]
    found = cut_name(name)
    assert len(found) == 113 and found.startswith(name[:60]) and found.endswith(name[-50:]) and "…" in found


def test_counts() -> None:
    assert counted(1, "layer") == "1 layer" and counted(0, "layer") == "0 layers"
    assert counted(12345, "value") == "12,345 values"


def test_readable() -> None:
    report = {"a\n": ["x" * 5000, 1.5, None], "b": ({"c": "\x1b"},)}
    shown = readable(report)
    assert shown["b"] == ({"c": r"\x1b"},) and shown[r"a\n"][1:] == [1.5, None]
    assert len(shown[r"a\n"][0]) == MOST + 3 and shown[r"a\n"][0].startswith("xxx")
    assert report["a\n"][0] == "x" * 5000  # the report itself has all


def test_only_what_is_declared_is_told() -> None:
    """A model with other steps alone has no "0 wide quantizers"."""
    oracle = {"translated_quantizers": 0, "rescaled_quantizers": 3, "branches": 1, "refitted_layers": 2}
    assert declared(oracle) == "3 changed steps, 2 layers fitted again, 1 branch"
    assert declared({"translated_quantizers": 1}) == "1 wide quantizer" and declared({}) == "nothing"
