"""Texts as people read them."""

from __future__ import annotations

from onnx_ocs.report.format import MOST, readable


def test_readable() -> None:
    report = {"a\n": ["x" * 5000, 1.5, None], "b": ({"c": "\x1b"},)}
    shown = readable(report)
    assert shown["b"] == ({"c": r"\x1b"},) and shown[r"a\n"][1:] == [1.5, None]
    assert len(shown[r"a\n"][0]) == MOST + 3 and shown[r"a\n"][0].startswith("xxx")
    assert report["a\n"][0] == "x" * 5000  # the report itself has all
