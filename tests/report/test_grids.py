"""What people read of quantizers that get another grid."""

from __future__ import annotations

from typing import Any

import pytest

from onnx_ocs.report.grids import grid_lines
from onnx_ocs.report.html import to_html
from onnx_ocs.report.report import assemble


def entry(**more: Any) -> dict[str, Any]:
    return {
        "pass": "regrid", "status": "applied", "tensor": "<t>", "quantizers": ["q"], "dead": {"y": [4, 5, 6], "z": [0]},
        "edit": "left out", "scale_before": 1.25, "zero_point_before": 0, "scale": 1.25, "zero_point": 0,
        "largest": 0.25, "reason": None, **more,
    }  # fmt: skip


REASON = {"code": "mixed", "message": "no grid", "node": "n"}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, "has a step of 1.25, their values reach 0.25: it is left out."),
        ({"edit": "split"}, "each part of the Concat has a grid of its own."),
        ({"edit": "new grid", "scale": 0.004, "zero_point": 3}, "it has another grid, step 0.004, zero-point 3."),
        ({"status": "candidate", "edit": None}, "rewrite mends it (the pass regrid)."),
        ({"status": "refused", "edit": None, "reason": REASON}, "left alone, no grid (mixed)."),
        ({"scale_before": [1.0, 2.0]}, "has steps that are too large: it is left out."),
    ],
)
def test_lines(more: dict[str, Any], told: str) -> None:
    (line,) = grid_lines([entry(**more)])
    assert line.startswith("Dead channels 4..6 of 'y' and 0 of 'z': the quantizer of '<t>' ") and line.endswith(told)


def test_a_zero_point() -> None:
    (line,) = grid_lines([entry(dead={}, edit="new grid", scale=0.5, zero_point=9)])
    assert line == "The zero-point 0 of '<t>' wastes its range: it has another grid, step 0.5, zero-point 9."


def test_quantizers_of_16_bits_share_a_line() -> None:
    more = {"edit": "bits16", "dead": {}, "range_before": [0.0, 1.0], "type": "uint16", "type_before": "uint8"}
    same, wider = entry(**more, range=[0.0, 1.0]), entry(**more, range=[0.0, 2.0])
    refused = entry(**{**more, "status": "refused", "reason": REASON})
    done, left = grid_lines([same, wider, wider, refused])
    assert done == "'<t>', '<t>' and 1 more: 16 bits in place of 8 or fewer, 2 of them over a wider range."
    assert left == "'<t>': no 16 bits, no grid (mixed)."
    assert grid_lines([same]) == ["'<t>': 16 bits in place of 8 or fewer."]


def test_the_page_has_them() -> None:
    page = to_html(dict(assemble("rewrite", 0, grids=[entry()])), "t")
    assert "their values reach 0.25" in page and "<t>" not in page


@pytest.mark.parametrize(
    ("count", "more", "told"),
    [
        (1, {}, "The int8 of '<t>' are stored as uint8, the same values: "
                "layers find integer kernels for these in onnxruntime."),
        (4, {}, "The int8 of '<t>', '<t>' and 2 more are stored as uint8"),
        (2, {"status": "refused", "reason": REASON}, "left alone, no grid (mixed)."),
    ],
)  # fmt: skip
def test_quantizers_without_a_sign_share_a_line(count: int, more: dict[str, Any], told: str) -> None:
    """Behind all others."""
    signs = [entry(edit="unsigned", dead={}, largest=None, **more)] * count
    first, last = grid_lines([*signs, entry()])
    assert "Dead channels" in first and told in last
