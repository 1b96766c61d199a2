"""Draw the README's picture: what outlier translation does, on one value and on one tensor of the example.

    python models/picture.py [--out models/picture.svg]

Needs the extra `report`.  Left the algebra; right `/block3/outer/Relu_output_0` of digits.w8a2.onnx, rewritten as the
README's first command does, as it stands in the report.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import onnx_ocs
from onnx_ocs.report.charts import AFTER, BEFORE, FAINT, draw_histogram, figure, svg

HERE = Path(__file__).parent
TENSOR = "/block3/outer/Relu_output_0"
THEME = """<style>
svg { --ink: #1b1f24; --faint: #aab2bb; --before: #6e7781; --after: #0969da; --saved: #d9660b; }
@media (prefers-color-scheme: dark) {
svg { --ink: #e6e9ed; --faint: #6e7681; --before: #9aa4af; --after: #58a6ff; --saved: #f0883e; } }
text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
</style>"""


def main() -> int:
    """Command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=HERE / "picture.svg")
    out: Path = parser.parse_args().out
    result = onnx_ocs.rewrite(
        HERE / "digits.w8a2.onnx",
        calib=HERE / "digits.calib.npz",
        float_model=HERE / "digits.fp32.onnx",
        options=onnx_ocs.PlanOptions(budget=0.2),
        verify=False,
    )
    entry = next(r for r in result.report["regions"] if r["tensor"] == TENSOR)
    with figure(900, 300) as drawing:
        left, right = drawing.subfigures(1, 2, wspace=0.06, squeeze=False)[0]
        axes = left.subplots()
        a = np.linspace(0, 8, 801)
        clipped, wide = np.clip(np.rint(a), 0, 3), np.clip(np.rint(a), 0, 6)
        axes.plot(a, a, color=FAINT, linestyle=":", label="a")
        axes.plot(a, wide, color=AFTER, linewidth=2.2, label="Q(a) + Q(relu(a - X_clip))")
        axes.plot(a, clipped, color=BEFORE, linewidth=2.2, label="Q(a), 2 bits")
        axes.set_ylim(-0.2, 8)
        axes.set_xticks([0, 3, 6], ["0", "X_clip", "2 X_clip"])
        axes.set_yticks([0, 3, 6], ["0", "X_clip", "2 X_clip"])
        axes.set_xlabel("activation a")
        axes.set_ylabel("what the layer reads")
        axes.legend(loc="upper left")
        left.suptitle("one copy of the channel doubles its range", fontsize=11)
        bars, grids = right.subplots(2, 1, sharex=True, height_ratios=[5, 1])
        draw_histogram(bars, grids, entry)
        error = entry["error"]
        right.suptitle(
            f"{sum(entry['copies'])} copies on {entry['channels']} channels: "
            f"{error['isolated_before_db']:.1f} -> {error['isolated_after_db']:.1f} dB",
            fontsize=11,
        )
        text = svg(
            drawing, "a quantizer with and without a copy of its channel, and an activation with both grids", "p"
        )
    out.write_text(text.replace("><", ">" + THEME + "<", 1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
