"""Charts of the HTML report, drawn by matplotlib as small SVGs whose colours follow the page's theme.

Every colour is drawn as a placeholder and becomes a CSS variable (`var(--after)`), so that one drawing serves light and
dark.  Text stays text.  Nothing but numbers and the program's own words is drawn: names of tensors are for the page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, NullLocator

__all__ = ["INK", "chain", "draw_histogram", "figure", "histogram", "layers", "svg", "tradeoff"]

Entry = Mapping[str, Any]
# Placeholders: each is a colour that no chart would use otherwise
INK, FAINT, BEFORE, AFTER, SAVED = "#010203", "#040506", "#070809", "#0a0b0c", "#0d0e0f"
VARIABLES = {INK: "ink", FAINT: "faint", BEFORE: "before", AFTER: "after", SAVED: "saved"}
POINT = 72  # a unit of the drawing is a pixel at this many dots an inch
FEW = 60  # tensors that are marked one by one
WHEN = ("before", "after")
LEVELS = 64  # steps of a grid that are drawn one by one
STYLE: dict[Any, Any] = {  # matplotlib's rcParams
    "font.size": 10,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.bottom": False,
    "ytick.left": False,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


@contextmanager
def figure(width: int, height: int, layout: Literal["constrained"] | None = "constrained") -> Iterator[Figure]:
    """An empty figure of so many pixels, in the report's style."""
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE, "backend": "svg"}):
        yield Figure(figsize=(width / POINT, height / POINT), layout=layout)


def svg(drawing: Figure, label: str, salt: str) -> str:
    """The drawing as an SVG element without sizes, ids of groups, or anything that varies from run to run."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}):  # ids that are referred to differ between the page's charts
        drawing.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text)
    text = re.sub(r" font-family: [^;]*;|<defs><style.*?</style></defs>| transform=\"rotate\(-0 [^)]*\)\"", "", text)
    text = text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    for placeholder, name in VARIABLES.items():
        text = text.replace(placeholder, f"var(--{name})")
    text = re.sub(r"(\d+\.\d\d)\d+", r"\1", text)
    return re.sub(r"\s+", " ", re.sub(r">\s+<", "><", text)).strip()


def chain(regions: Sequence[Entry], width: int) -> str:
    """Errors along the graph: what every tensor holds, and below what its quantizer alone adds.

    Args:
        regions: the report's entries with their number in the graph as `number`, those without `error` left out.
        width: in pixels.
    """
    x = np.asarray([r["number"] for r in regions], float)
    with figure(width, 400) as drawing:
        upper, lower = drawing.subplots(2, 1, sharex=True)
        titles = {"accumulated": (upper, "what the tensor holds"), "isolated": (lower, "its own quantizer alone")}
        for kind, (axes, title) in titles.items():
            before, after = (_series([r["error"] for r in regions], f"{kind}_{when}_db") for when in WHEN)
            _before_and_after(axes, x, before, after, title, width)
        drawing.legend(*upper.get_legend_handles_labels(), loc="outside upper right", ncols=2)
        lower.set_xlabel(
            "quantized tensor, in graph order (number in the table)" if width > 600 else "quantized tensor"
        )
        lower.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=max(4, width // 60)))
        return svg(drawing, "error of every quantized tensor, in graph order", f"chain{width}")


def layers(entries: Sequence[Entry], width: int) -> str:
    """Errors of the layers' outputs before and after their weights were fitted again, in graph order.

    Args:
        entries: the report's entries of layers, those without an error left out, with their number as `number`.
        width: in pixels.
    """
    x = np.asarray([e["number"] for e in entries], float)
    with figure(width, 230) as drawing:
        axes = drawing.subplots()
        before, after = (_series(entries, f"error_{when}_db") for when in WHEN)
        _before_and_after(axes, x, before, after, "output of the layer", width)
        drawing.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=2)
        axes.set_xlabel("layer with a quantized weight, in the order of the table" if width > 600 else "layer")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=max(4, width // 60)))
        return svg(drawing, "error of every layer's output, before and after", f"layers{width}")


def _before_and_after(axes: Axes, x: Any, before: Any, after: Any, title: str, width: int) -> None:
    """Two lines, what is far above all others cut off with a mark."""
    marker: dict[str, Any] = {"marker": "o", "markersize": 3} if len(x) <= FEW else {}
    top = _ceiling(np.concatenate([before, after]))
    axes.plot(x, np.minimum(before, top), color=BEFORE, label="before", **marker)
    if np.isfinite(after).any():
        axes.plot(x, np.minimum(after, top), color=AFTER, label="after", **marker)
        axes.fill_between(x, np.minimum(before, top), np.minimum(after, top), color=AFTER, alpha=0.12, lw=0)
    beyond = np.flatnonzero(before > top)
    axes.plot(x[beyond], np.full(beyond.size, top), "^", color=BEFORE, markersize=5)
    crowded = np.diff(x[beyond]).min(initial=np.inf) < 40 / width * (x[-1] - x[0])
    for k in () if crowded else beyond:
        left = x[k] < x.mean()
        place: dict[str, Any] = {"xytext": (7 if left else -7, 3), "ha": "left" if left else "right"}
        axes.annotate(f"{before[k]:.0f}", (x[k], top), textcoords="offset points", va="center", **place)
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_ylabel("SQNR (dB)")
    axes.margins(x=0.02)


def _ceiling(values: Any) -> float:
    """Where to cut the axis, so that a few tensors of more bits do not flatten all others."""
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0
    low, high = np.quantile(known, [0.25, 0.75])
    cut = high + 1.5 * max(high - low, 2.0)
    return float(cut if known.max() > cut + 3 and np.mean(known > cut) <= 0.2 else known.max())


def _series(entries: Sequence[Entry], key: str) -> Any:
    values = [e.get(key) for e in entries]
    return np.asarray([np.nan if v is None else v for v in values], float)


def _grid(entry: Entry, scale: Any, copies: int, copies_low: int) -> tuple[float, float, float]:
    """Lowest and highest value and step of a grid, of the channel that reaches furthest."""
    if entry["pass"] == "split":  # a copy doubles its channel's step
        scale, copies = np.multiply(scale, copies + 1), 0
    scales, zeros = (np.atleast_1d(np.asarray(v, float)) for v in (scale, entry["zero_point"]))
    step = float(scales.max())
    low = float((scales * (entry["qmin"] - zeros)).min()) * (copies_low + 1)
    return low, float((scales * (entry["qmax"] - zeros)).max()) * (copies + 1), step


def histogram(entry: Entry, salt: str) -> str:
    """Float values in front of one quantizer, on what they are rounded to before and after.

    Args:
        entry: a region of the report that has a `histogram`.
        salt: makes the ids of this drawing its own.
    """
    with figure(400, 215, layout=None) as drawing:  # many of these: fixed margins are faster than a search
        drawing.subplots_adjust(left=0.125, right=0.965, top=0.98, bottom=0.16, hspace=0.06)
        bars, grids = drawing.subplots(2, 1, sharex=True, height_ratios=[5, 1])
        draw_histogram(bars, grids, entry)
        return svg(drawing, "histogram of the activation, with the old and the new grid", salt)


def draw_histogram(bars: Axes, grids: Axes, entry: Entry) -> None:
    """The values above, and below them the grids that they are rounded to."""
    h = entry["histogram"]
    low, high = h["range"]
    edges = np.linspace(low, high, len(h["counts"]) + 1)
    counts, saved = np.asarray(h["counts"], float), np.asarray(h["saved"], float)
    old = _grid(entry, entry["scale_before"], 0, 0)
    new = _grid(entry, entry["scale"], max(entry["copies"], default=0), max(entry["copies_low"], default=0))
    changed = new != old
    bars.stairs(counts, edges, fill=True, color=BEFORE, alpha=0.45)
    if saved.any():
        bars.stairs(saved, edges, fill=True, color=SAVED, alpha=0.85)
    bars.set_yscale("log")
    bars.set_ylim(bottom=0.7)
    bars.yaxis.set_major_formatter(EngFormatter(sep=""))
    bars.yaxis.set_minor_locator(NullLocator())
    bars.set_ylabel("values")
    _limits(bars, edges, old, new)
    rows = [(old, BEFORE, "old")] + ([(new, AFTER, "new")] if changed else [])
    for y, (grid, colour, _) in enumerate(rows):
        bars.axvline(grid[1], color=colour, linewidth=1.2, linestyle="--")
        _rug(grids, -y, grid, colour)
    grids.set_ylim(0.6 - len(rows), 0.6)
    grids.set_yticks([-y for y in range(len(rows))], [name for *_, name in rows])
    grids.tick_params(axis="y", length=0)
    grids.grid(False)
    grids.spines["left"].set_visible(False)
    grids.set_xlabel("activation value")


def _limits(axes: Axes, edges: Any, old: tuple[float, ...], new: tuple[float, ...]) -> None:
    """All values and the old range; as much of the new one as is near them."""
    low, high = min(float(edges[0]), old[0]), max(float(edges[-1]), old[1])
    room = 0.15 * (high - low)
    low, high = max(min(low, new[0]), low - room), min(max(high, new[1]), high + room)
    axes.set_xlim(low - 0.02 * (high - low), high + 0.03 * (high - low))


def _rug(axes: Axes, y: float, grid: tuple[float, float, float], colour: str) -> None:
    """The values of a grid as ticks, or as a bar where they are too many."""
    low, high, step = grid
    levels = round((high - low) / step) + 1
    if levels <= LEVELS:
        axes.vlines(low + step * np.arange(levels), y - 0.38, y + 0.38, color=colour, linewidth=1.4)
    else:
        axes.barh(y, high - low, left=low, height=0.5, color=colour, linewidth=0)


def trials(entries: Sequence[Entry], width: int) -> str:
    """What was tried: how good against how slow, with those that no other beats joined, and the chosen one marked.

    Args:
        entries: the report's entries of what was tried.
        width: in pixels.
    """
    key = "metric" if any("metric" in e for e in entries) else "gain_db"
    points = [(e["macs"] if e["latency"] is None else e["latency"], e[key], e) for e in entries]
    with figure(width, 280) as drawing:
        axes = drawing.subplots()
        best = sorted((x, y) for x, y, e in points if e["front"])
        if best:
            axes.plot(*zip(*best, strict=True), color=AFTER, label="no other is better and as fast")
        for status, colour, size, label in (
            ("left", BEFORE, 5, "left"), ("kept", AFTER, 5, "kept for a while"), ("chosen", SAVED, 9, "chosen"),
        ):  # fmt: skip
            at = [(x, y) for x, y, e in points if e["status"] == status]
            if at:
                axes.plot(*zip(*at, strict=True), "o", color=colour, label=label, markersize=size)
        axes.set_xlabel("time of a sample, as a ratio to the model's")
        axes.set_ylabel("your metric, unseen samples" if key == "metric" else "gain on unseen samples (dB)")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
        drawing.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=4 if width > 600 else 2)
        return svg(drawing, "what was tried: quality against time", f"trials{width}")


def tradeoff(points: Sequence[Entry], tried: Sequence[Entry], width: int) -> str:
    """Gain against cost.

    Args:
        points: the sweep and the model as it is, with `extra_macs` (share) and `sqnr_db`.
        tried: other plans that were compared.
        width: in pixels.
    """
    with figure(width, 280) as drawing:
        axes = drawing.subplots()
        for entries, colour, label in (
            (tried, BEFORE, "plans that were compared"),
            (points, AFTER, "best for its cost"),
        ):
            at = sorted((100 * e["extra_macs"], e["sqnr_db"]) for e in entries if e.get("sqnr_db") is not None)
            if at:
                line = "-" if entries is points else "none"
                axes.plot(*zip(*at, strict=True), color=colour, label=label, marker="o", markersize=5, linestyle=line)
        axes.set_xlabel("extra multiply-accumulates (%)")
        axes.set_ylabel("output SQNR (dB)")
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
        axes.legend(loc="lower right")
        return svg(drawing, "output SQNR against extra multiply-accumulates", f"tradeoff{width}")
