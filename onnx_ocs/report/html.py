"""The report as one self-contained HTML file: no network, light and dark, readable on a phone.

The page is a Jinja template (`report.html.j2`) that escapes every name; charts are drawn by
`onnx_ocs.report.charts`.  Both libraries come with the extra `report`, and are imported when a report is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_ocs.errors import UserError
from onnx_ocs.report.answer import answer
from onnx_ocs.report.comparison import Comparison
from onnx_ocs.report.costs import COSTS, latency_label, told_change
from onnx_ocs.report.format import counted, cut_name, db_or_dash, declared, from_to, readable
from onnx_ocs.report.grids import grid_lines
from onnx_ocs.report.measures import LatencyEntry
from onnx_ocs.report.outputs import every_row
from onnx_ocs.report.reading import was_changed
from onnx_ocs.report.trials import trial_rows

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

__all__ = ["CARDS", "check_html", "comparison_to_html", "to_html"]

Entry = Mapping[str, Any]
CARDS = 60  # regions with a histogram of their own; all others are in the table
FEW = 12  # of these that are shown at once
READERS = 3  # names of what reads a tensor
WORST = 20  # tensors whose loss is shown
TENSORS = 200  # names in one list
VERBS = {"inspect": "What could be rewritten", "plan": "Plan", "rewrite": "Rewrite", "verify": "Verification"}


def check_html() -> None:
    """Complain before the long work starts, not after it.

    Raises:
        UserError: the libraries for HTML reports are not installed.
    """
    missing = [m for m in ("jinja2", "matplotlib") if find_spec(m) is None]
    if missing:
        raise UserError(f"--html needs {' and '.join(missing)}: pip install 'onnx-ocs[report]'")


def to_html(report: Entry, title: str) -> str:
    """The page.

    Args:
        report: a report (`onnx_ocs.report/1`) of any verb.
        title: what it is about, such as the name of the file.

    Returns:
        HTML; equal reports give equal pages.
    """
    from markupsafe import Markup

    from onnx_ocs.report import charts

    report, title = readable(report), readable(title)  # the page may go to a terminal
    unmeasured = dict.fromkeys(("error", "mass_saved", "histogram"))  # without calibration samples
    regions = [{**unmeasured, **r, "number": k} for k, r in enumerate(report["regions"], 1)]
    measured = [r for r in regions if r["error"] and r["error"].get("isolated_before_db") is not None]
    widths = {"wide": 960, "slim": 380}
    chain = {k: Markup(charts.chain(measured, w)) for k, w in widths.items()} if len(measured) > 1 else None
    numbered = enumerate(report["reconstructions"], 1)
    fitted = [{**e, "number": k, **_kept(e)} for k, e in numbered if e["error_before_db"] is not None]
    layers = {k: Markup(charts.layers(fitted, w)) for k, w in widths.items()} if len(fitted) > 1 else None
    plan = report.get("plan") or {}
    points = _points(plan)
    sweep = None
    if points:
        tried = list(plan["candidates"].values())
        sweep = {k: Markup(charts.tradeoff(points, tried, w)) for k, w in widths.items()}
    trials = report.get("trials")
    return _template("report.html.j2").render(
        report=report,
        pareto=trials and {k: Markup(charts.trials(trials["tried"], w)) for k, w in widths.items()},
        trials=trials and trial_rows(trials),
        title=title,
        heading=VERBS.get(report["verb"], report["verb"]),
        regions=regions,
        active=[r for r in regions if r["status"] != "refused"],
        cards=[
            {**r, "chart": Markup(charts.histogram(r, f"h{r['number']}")), "path": _path(r)} for r in _shown(regions)
        ],
        chain=chain,
        layers=layers,
        answer=answer(report, was_changed(report)),
        sweep=sweep,
        plan=plan,
        refusals=_refusals(regions),
        tensors=TENSORS,
        few=FEW,
        cost=_cost(report["cost"], report["latency"]),
        outputs=every_row(report["outputs"]),
        grids=grid_lines(report.get("grids", ())),
        loss=_loss(report.get("loss"), regions),
    )


def comparison_to_html(found: Comparison) -> str:
    """The page of two reports side by side."""
    return _template("comparison.html.j2").render(found=found)


@cache
def _template(name: str) -> Template:
    """A page's template, which takes longer to read than to fill."""
    from jinja2 import Environment, FileSystemLoader

    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.filters |= {"number": _number, "db": db_or_dash, "percent": _percent, "name": cut_name, "count": counted}
    pages.filters |= {"declared": declared, "breakable": _breakable, "saved": _saved}
    pages.globals["range_of"] = from_to
    pages.globals["latency_label"] = latency_label
    return pages.get_template(name)


def _loss(loss: Mapping[str, Any] | None, regions: Sequence[Entry]) -> Entry | None:
    """What the quantized activations cost at the output: in groups, and the tensors that cost most alone."""
    if loss is None or loss["sqnr_all_db"] is None:
        return None
    beyond = {t["tensor"]: t["code"] for t in loss["unmendable"]}
    alone = [
        {**{k: r[k] for k in ("number", "tensor", "sqnr_alone_db", "share_alone")}, "why": beyond.get(r["tensor"])}
        for r in regions
        if r.get("share_alone")
    ]
    alone.sort(key=lambda a: -a["share_alone"])
    groups = {"all": "all quantized activations", "mendable": "those that copies or another step can help"}
    groups |= {"unmendable": "all others"}
    rows = [(name, loss[f"sqnr_{key}_db"], loss[f"share_{key}"]) for key, name in groups.items()]
    return {"samples": loss["samples"], "groups": rows, "worst": alone[:WORST], "tensors": len(alone)}


def _points(plan: Mapping[str, Any]) -> list[Entry]:
    """Gain and cost of a sweep, or of the plans on the way to a target of SQNR; none where neither was asked for."""
    target = plan.get("target") or {}
    probes = target.get("probes", ()) if target.get("kind") == "sqnr" else ()
    found = [*plan.get("sweep", ()), *({"extra_macs": p["extra_macs"], "sqnr_db": p["got"]} for p in probes)]
    return [{"extra_macs": 0.0, "sqnr_db": plan["before"][1]}, *found] if found else []


def _shown(regions: Sequence[Entry]) -> list[Entry]:
    """Regions that get a histogram: those with most copies, in graph order."""
    drawn = [r for r in regions if r["status"] != "refused" and r["histogram"]]
    most = sorted(drawn, key=lambda r: -sum(r["copies"]) - sum(r["copies_low"]))[:CARDS]
    return sorted(most, key=lambda r: r["number"])


def _kept(e: Entry) -> Entry:
    """The error of a layer as it is written: what was refused stays as it was."""
    return {} if e["status"] == "applied" else {"error_after_db": e["error_before_db"]}


def _path(r: Entry) -> list[Entry]:
    """The graph around a tensor: who writes it, its quantizer, who reads it."""
    readers = [{"kind": "reader", "name": ", ".join(r["consumers"][:READERS])}] if r["consumers"] else []
    if len(r["consumers"]) > READERS:
        readers[0]["name"] += f" and {len(r['consumers']) - READERS} more"
    wide = "" if r["mode"] in ("rescale", None) else ", wide"
    steps = [{"kind": "producer", "name": r["producer"]}] if r["producer"] not in ("", "none") else []
    return [*steps, {"kind": "changed", "name": f"Q, DQ{wide}"}, *readers]


def _refusals(regions: Sequence[Entry]) -> list[tuple[str, list[Entry]]]:
    """Refused regions by code, the most frequent first."""
    found: dict[str, list[Entry]] = {}
    for r in regions:
        if r["reason"]:
            found.setdefault(r["reason"]["code"], []).append(r)
    return sorted(found.items(), key=lambda f: -len(f[1]))


def _cost(cost: Mapping[str, int | None], latency: LatencyEntry) -> list[tuple[str, str, str, str]]:
    """Rows of the table of cost: name, before, after, change."""
    rows = []
    if latency["ratio"] is not None:
        rows.append((
            latency_label(latency), f"{latency['before_ms']:.3g} ms", f"{latency['after_ms']:.3g} ms",
            f"× {latency['ratio']:.2f}",
        ))  # fmt: skip
    for key, name in {**COSTS, "macs": "multiply-accumulates"}.items():
        a, b = cost.get(f"{key}_before"), cost.get(f"{key}_after")
        if a is not None and b is not None:
            rows.append((name, f"{a:,}", f"{b:,}", told_change(key, a, b) if b != a else "–"))
    return rows


def _number(value: Any) -> str:
    """A scale or X_clip: one number, or the range of a per-channel one."""
    if value is None:
        return "–"
    values = value if isinstance(value, list) else [value]
    low, high = (f"{f(values, default=0):.4g}" for f in (min, max))
    return low if low == high else f"{low} … {high}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _saved(share: float | None) -> str:
    """A share of the clipped mass; a range that was made smaller for a finer step saves nothing."""
    return "–" if share is None or share < 0 else _percent(share)


def _breakable(text: str) -> Markup:
    """Text whose lists without spaces may be broken behind a comma."""
    from markupsafe import Markup, escape

    return Markup(",<wbr>").join(escape(part) for part in text.split(","))
