"""Charts: what they show, that their colours follow the theme, and that they are the same each time."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from tried import entry

from onnx_ocs.report.charts import INK, chain, draw_histogram, figure, histogram, svg, tradeoff, trials

ENTRY: dict[str, Any] = {
    "pass": "translate", "scale_before": 0.5, "scale": 0.5, "copies": [0, 1, 2], "copies_low": [0], "zero_point": 0,
    "qmin": 0, "qmax": 7, "histogram": {"range": [-1.0, 9.0], "counts": [5, 100, 20, 3, 1], "saved": [0, 0, 2, 3, 1]},
}  # fmt: skip


def region(number: int, before: float | None, after: float | None, own: float = 10.0) -> dict[str, Any]:
    error = {"isolated_before_db": own, "isolated_after_db": own}
    return {"number": number, "error": error | {"accumulated_before_db": before, "accumulated_after_db": after}}


def limits(entry: dict[str, Any]) -> tuple[list[float], list[str], list[float]]:
    """Where the dashed lines stand, the names of the grids, and where their ticks are."""
    with figure(400, 200, layout=None) as drawing:
        bars, grids = drawing.subplots(2, 1, sharex=True)
        draw_histogram(bars, grids, entry)
        ticks = [float(s[0][0]) for c in grids.collections for s in c.get_segments()]  # type: ignore[attr-defined]
        lines = [float(np.asarray(line.get_xdata())[0]) for line in bars.lines]
        return lines, [t.get_text() for t in grids.get_yticklabels()], ticks


def test_a_figure_has_its_size_in_pixels() -> None:
    with figure(400, 215) as drawing:
        assert (drawing.get_size_inches() * 72).tolist() == pytest.approx([400, 215])


def test_placeholders_become_the_theme_s_colours() -> None:
    with figure(100, 80) as drawing:
        drawing.text(0.5, 0.5, "a <b> & $c$", color=INK)
        text = svg(drawing, "label", "salt")
    assert text.startswith('<svg role="img" aria-label="label"') and "a &lt;b&gt; &amp; $c$" in text
    assert "var(--ink)" in text and INK not in text
    assert " width=" not in text.split(">")[0] and "metadata" not in text and "font-family" not in text


def test_the_grids_of_a_histogram() -> None:
    """The new grid reaches as far as the channel with the most copies."""
    lines, names, ticks = limits(ENTRY)
    assert lines == [3.5, 10.5] and names == ["old", "new"]
    old, new = (np.arange(n) / 2 for n in (8, 22))  # 0, 0.5, ... 3.5, and on to 10.5
    assert ticks == [*old, *new]
    lines, names, ticks = limits({**ENTRY, "copies": [0]})
    assert lines == [3.5] and names == ["old"] and ticks == [*old]
    lines, _, ticks = limits({**ENTRY, "pass": "split", "copies": [1]})  # halved: steps of twice the size
    assert lines == [3.5, 7.0] and ticks == [*old, *range(8)]
    lines, _, _ = limits({**ENTRY, "copies": [0], "scale": 0.25})
    assert lines == [3.5, 1.75]
    lines, _, _ = limits({**ENTRY, "scale_before": [0.5, 1.0], "scale": [0.5, 1.0], "zero_point": 4, "copies": [0]})
    assert lines == [3.0]


def test_saved_values_have_a_colour_of_their_own() -> None:
    text = histogram(ENTRY, "a")
    assert {"before", "after", "saved", "ink"} <= set(re.findall(r"var\(--(\w+)\)", text))
    none = {**ENTRY, "histogram": {**ENTRY["histogram"], "saved": [0] * 5}}
    assert "var(--saved)" not in histogram(none, "a")
    assert histogram(ENTRY, "a") == text


@pytest.mark.parametrize("width", [360, 760])
def test_the_chain_of_errors(width: int) -> None:
    text = chain([region(1, 20, 25), region(2, 15, 22), region(4, None, None)], width)
    assert ">before<" in text and ">after<" in text
    assert ("number in the table" in text) == (width > 600)


def test_before_stands_alone_where_nothing_came_after() -> None:
    alone = region(1, 20, None)
    alone["error"]["isolated_after_db"] = None
    text = chain([alone, {**alone, "number": 3}], 360)
    assert ">before<" in text and ">after<" not in text and "var(--after)" not in text


def test_a_few_far_above_the_others_are_cut_and_told() -> None:
    """One tensor of 90 dB among ten of 10: the axis ends below it, and its value is written."""
    regions = [region(k, 10.0 + k % 3, 12.0, 11.0) for k in range(10)]
    assert ">90<" not in chain(regions, 760)
    regions[4] = region(4, 90.0, 95.0, 11.0)
    assert ">90<" in chain(regions, 760)


def test_gain_against_cost() -> None:
    best = [{"extra_macs": 0.0, "sqnr_db": 10.0}, {"extra_macs": 0.1, "sqnr_db": 20.0}]
    tried = [{"extra_macs": 0.05, "sqnr_db": None}]
    text = tradeoff(best, tried, 400)
    assert "best for its cost" in text and "plans that were compared" not in text
    assert "plans that were compared" in tradeoff(best, [{"extra_macs": 0.05, "sqnr_db": 12.0}], 400)


@pytest.mark.parametrize("width", [960, 380])
def test_what_was_tried(width: int) -> None:
    """Each candidate is a point, the front a line through those that no other beats, the chosen one of its colour."""
    tried = [entry("as it is", 0.0, 1.0, "kept"), entry("steps", 1.5, None, "chosen", front=True), entry("x", 1.0, 1.3)]
    text = trials(tried, width)
    assert "gain on unseen samples (dB)" in text and "var(--saved)" in text and "no other is better" in text
    assert "your metric" in trials([{**e, "metric": 0.5} for e in tried], width)
    assert trials(tried, width) == text
