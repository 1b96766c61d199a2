"""The verdict in words: what was done, what it brought and costs, what still hurts, and what to try next.

Everything is read off the report.  Advice is given only where the report has measured its reason, or knows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Literal, TypedDict

from onnx_ocs.report.costs import elsewhere
from onnx_ocs.report.format import changed_share, counted, decibels, percent

__all__ = ["VerdictEntry", "WorstEntry", "advise"]

Report = Mapping[str, Any]
OUTPUTS = 6  # that are told one by one
WORST = 3  # tensors, and as many layers
FEW = 32  # samples below which more are advised
LOST_DB = 1.0  # by which unseen samples may be worse than those that a plan was made from
SPENT = 0.95  # of a budget: all of it
HARMFUL = 0.25  # share of the loss from which a tensor is worth 16 bits
APART_DB = 6.0  # by which a tensor's own error lies above the usual one's, to be worth them
BEYOND = 1.5  # how far values reach beyond their range where it was cut, not measured
NEAR_DB = 20.0  # above what hurts most: of no matter
NOTABLE = 0.01  # share of the loss from which it matters
MENDED_DB = 30.0  # output SQNR from which branches have little left to mend


class WorstEntry(TypedDict):
    """What still hurts.

    Attributes:
        kind: a quantized activation, or a layer whose weights are quantized.
        name: the tensor, or the node.
        sqnr_db: of the tensor by its own quantizer alone, or of the layer's output; `inspect`: of the model's output.
        share: of the squared error at the output, where that was measured.
    """

    kind: Literal["tensor", "layer"]
    name: str
    sqnr_db: float | None
    share: float | None


class VerdictEntry(TypedDict):
    """The verdict in words.

    Attributes:
        done: what was done.
        brought: what it brought, one sentence for each graph output, and then for each in the target's runtime.
        costs: what it costs, in multiply-accumulates, bytes and time.
        budget: how much of the budget was used, and why not more; null where there is none.
        worst: what still hurts most.
        next: what to try next, the most promising first.
    """

    done: str
    brought: list[str]
    costs: str
    budget: str | None
    worst: list[WorstEntry]
    next: list[str]


def advise(report: Report, budget: float | None = None, floats: bool = True) -> VerdictEntry:
    """Make the verdict.

    Args:
        report: what is known otherwise.
        budget: the share of extra multiply-accumulates that was allowed; None where none was given.
        floats: whether the target has float operators.
    """
    worst = _worst(report)
    return {
        "done": _done(report),
        "brought": _brought(report["outputs"]) + _there(report.get("on_target")),
        "costs": _costs(report["cost"], report["latency"]),
        "budget": None if budget is None or report["verb"] == "inspect" else _budget(report, budget),
        "worst": worst,
        "next": _next(report, budget, worst, floats),
    }


def _applied(entries: Sequence[Report]) -> list[Report]:
    return [e for e in entries if e["status"] != "refused"]


def _done(report: Report) -> str:
    regions = _applied(report["regions"])
    if report["verb"] == "inspect":
        return f"{len(regions)} of {counted(len(report['regions']), 'quantized activation')} can get copies"
    copied = [r for r in regions if sum(r["copies"]) + sum(r["copies_low"])]
    steps = [r for r in regions if r["mode"] in ("rescale", "carried") or r["scale"] != r["scale_before"]]
    grids = _applied(report.get("grids", ()))
    signs = [g for g in grids if g["edit"] == "unsigned"]
    shorts = [g for g in grids if g["edit"] == "bits16"]
    gains = [g for g in grids if g["edit"] == "gains"]
    counts = (
        (len(grids) - len(signs) - len(shorts) - len(gains), "new grid", "new grids"),
        (len(gains), "tensor with gains", "tensors with gains"),
        (len(shorts), "quantizer with 16 bits", "quantizers with 16 bits"),
        (len(signs), "quantizer stored as uint8", "quantizers stored as uint8"),
        (len(copied), "tensor with copies", "tensors with copies"),
        (len(steps), "other step", "other steps"),
        (len(_applied(report.get("reconstructions", ()))), "layer fitted again", "layers fitted again"),
        (len(_applied(report["compensations"])), "branch", "branches"),
    )
    return ", ".join(f"{n} {one if n == 1 else many}" for n, one, many in counts if n) or "nothing was rewritten"


def _brought(outputs: Sequence[Report]) -> list[str]:
    told = []
    for o in outputs[:OUTPUTS]:
        parts = []
        if o["kind"] != "labels":
            parts.append(" → ".join(dict.fromkeys(decibels(o[f"sqnr_{when}_db"]) for when in ("before", "after"))))
        if o["agreement_before"] is not None and o["agreement_after"] is not None:
            parts.append(f"same answer {changed_share(o['agreement_before'], o['agreement_after'])}")
        before, after = len(o["constant_channels_before"]), len(o["constant_channels"])
        if before or after:
            parts.append(f"dead channels {' → '.join(dict.fromkeys(map(str, (before, after))))}")
        told.append(f"'{o['name']}' {', '.join(parts)}")
    more = len(outputs) - OUTPUTS
    return told + ([f"and {counted(more, 'more output')}"] if more > 0 else [])


def _there(seen: Report | None) -> list[str]:
    return [] if seen is None else [f"in {seen['runtime']} {told}" for told in _brought(seen["outputs"])]


def _costs(cost: Report, time: Report) -> str:
    parts = []
    for key, name in (("macs", "multiply-accumulates"), ("bytes", "bytes")):
        before, after = cost.get(f"{key}_before"), cost.get(f"{key}_after")
        if before and after is not None:
            parts.append(f"{100 * (after - before) / before:+.1f} % {name}" if after != before else f"no more {name}")
    before, after = cost.get("integer_kernels_before"), cost.get("integer_kernels_after")
    if before is not None and after is not None and before != after:
        parts.append(f"{before} → {after} integer kernels")
    if time["ratio"] is not None:
        took = f"{time['before_ms']:.3g} → {time['after_ms']:.3g} ms a sample"
        parts.append(f"{took}{elsewhere(time)} (x {time['ratio']:.2f})")
    return ", ".join(parts) or "nothing"


def _spent(cost: Report) -> float:
    before, after = cost.get("macs_before"), cost.get("macs_after")
    return (after - before) / before if before and after is not None else 0.0


def _budget(report: Report, budget: float) -> str:
    spent, plan = _spent(report["cost"]), report.get("plan", {})
    if not budget:
        return "none for copies (--budget): what is free alone was planned"
    told = f"{percent(max(spent, 0.0))} of the {percent(budget)} extra multiply-accumulates that were allowed"
    if spent >= SPENT * budget:
        return told
    if plan.get("kernels", {}).get("kept"):
        return f"{told}: copies were left out, {plan['kernels']['why']}"
    timed = plan.get("time", {}).get("measured", ())
    slow = [m for m in timed if m["ratio"] + m["tolerance"] > m["limit"]]
    if slow:
        took, limit = slow[-1]["ratio"], slow[-1]["limit"]
        return f"{told}: copies were left out for time: with more it took x {took:.2f}, x {limit:.3g} is allowed"
    larger = [c for c in plan.get("candidates", {}).values() if c["extra_macs"] > spent + 0.01 * budget]
    why = "those that spend more are no better" if larger else "the best plan needs no more"
    return f"{told}: on samples that plans were not made from, {why}"


def _worst(report: Report) -> list[WorstEntry]:
    regions: Sequence[Report] = report["regions"]
    shared = sorted((r for r in regions if r.get("share_alone")), key=lambda r: -r["share_alone"])[:WORST]
    found: list[WorstEntry] = [
        {"kind": "tensor", "name": r["tensor"], "sqnr_db": r["sqnr_alone_db"], "share": r["share_alone"]}
        for r in shared
    ]
    if not found:
        own = sorted(((v, r["tensor"]) for r in regions if (v := _own(r)) is not None), key=lambda o: o[0])
        found = [{"kind": "tensor", "name": t, "sqnr_db": v, "share": None} for v, t in own[:WORST]]
    layers = sorted(
        ((v, e["layer"]) for e in report.get("reconstructions", ()) if (v := _left(e)) is not None), key=lambda o: o[0]
    )
    left: list[WorstEntry] = [{"kind": "layer", "name": t, "sqnr_db": v, "share": None} for v, t in layers[:WORST]]
    return [e for part in (found, left) for e in part if _near(e, part[0])]


def _near(entry: WorstEntry, worst: WorstEntry) -> bool:
    """Whether something hurts in the same order of magnitude as what hurts most."""
    if entry["share"] is not None:
        return entry["share"] >= NOTABLE
    return entry["sqnr_db"] is not None and entry["sqnr_db"] < (worst["sqnr_db"] or 0.0) + NEAR_DB


def _own(region: Report) -> float | None:
    """What a tensor's own quantizer leaves, in dB."""
    error = region.get("error") or {}
    found: float | None = error.get("isolated_after_db", error.get("isolated_before_db"))
    return found


def _left(layer: Report) -> float | None:
    """The error of a layer's output, in dB."""
    found: float | None = layer["error_after_db" if layer["status"] == "applied" else "error_before_db"]
    return found


# ---- what to try next -----------------------------------------------------------------------------------------------


def _next(report: Report, budget: float | None, worst: Sequence[WorstEntry], floats: bool) -> list[str]:
    quality = report["quality"]
    if quality["reference"] is None:
        return ["give calibration samples (--calib): quality is then measured, and a plan goes by measured error"]
    found = [*_to_rewrite(report), *_more_samples(report), *_ranges(report["regions"]), *_sixteen_bits(report, worst)]
    if quality["reference"] != "float model":
        found.append("give the float model (--float): weights are then fitted to it, and the quality is the real one")
    if budget and _spent(report["cost"]) >= SPENT * budget:
        found.append(f"a larger --budget than {percent(budget)}: all of it was spent")
    found += _what_costs(report, budget, floats)
    return found


def _what_costs(report: Report, budget: float | None, floats: bool) -> list[str]:
    """Passes that were not tried and cost time, where there is something left to mend.

    Branches bring nothing behind weights that were fitted again (docs/results.md).
    """
    quality = report["quality"]
    after, many = quality["sqnr_after_db"], (quality["samples"] or 0) >= FEW // 2
    if report["verb"] == "inspect" or "trials" in report or not many or after is None or after >= MENDED_DB:
        return []
    found = ["--budget 0.1: copies of what is clipped cost time, and bring decibels"] if budget == 0 else []
    fitted = _applied(report.get("reconstructions", ()))
    if floats and not fitted and not report["compensations"]:
        found.append(
            "--passes regrid,translate,reconstruct,compensate: branches were not tried, and float time buys more"
        )
    return found


def _to_rewrite(report: Report) -> list[str]:
    if report["verb"] != "inspect" or not _applied(report["regions"]):
        return []
    loss = report.get("loss", {}).get("share_mendable")
    share = "" if loss is None else f": up to {percent(min(loss, 1.0))} of the loss can be mended"
    return [f"rewrite with these samples{share}"]


def _more_samples(report: Report) -> list[str]:
    """Where a plan is worse on samples that it has not seen, or fits were taken back, or samples are few."""
    plan, count = report.get("plan", {}), report["quality"]["samples"] or 0
    after, unseen = ((plan.get(k) or [None, None])[1] for k in ("after", "unseen"))
    fits = report.get("reconstructions", ())
    lost = sum((e["reason"] or {}).get("code") == "taken_back" for e in fits)
    if after is not None and unseen is not None and unseen < after - LOST_DB:
        gap = f"{after - unseen:.1f} dB"
        return [f"more samples: the plan is {gap} worse on samples that it was not made from ({count} were given)"]
    if fits and lost == len(fits):
        return [f"more samples: all fits were taken back, since unseen ones of the {count} were no better for them"]
    if count < FEW:
        return [f"more samples: {count} are few, and half of them are held out to judge plans"]
    return []


def _ranges(regions: Sequence[Report]) -> list[str]:
    """Where the quantizer cut most ranges far below what the values reach."""
    known = [r for r in regions if r.get("histogram") and isinstance(r["x_clip"], float) and r["x_clip"] > 0]
    cut = [r for r in known if r["histogram"]["range"][1] > BEYOND * r["x_clip"]]
    if len(known) < 2 or 2 * len(cut) <= len(known):
        return []
    told = f"{len(cut)} of {len(known)} ranges are exceeded by more than half"
    return [f"min-max ranges in the quantizer: {told}"]


def _sixteen_bits(report: Report, worst: Sequence[WorstEntry]) -> list[str]:
    """Tensors that nothing here can mend and that stand out, as a share of the loss or by their own error."""
    flag = "" if any(g["edit"] == "bits16" for g in report.get("grids", ())) else " (--bits16)"
    stuck = {r["tensor"] for r in report["regions"] if r["status"] != "candidate"}
    tensors = [w for w in worst if w["kind"] == "tensor" and w["name"] in stuck]
    harmful = [w for w in tensors if (w["share"] or 0.0) >= HARMFUL][:2]
    if harmful:
        names = " and ".join(f"'{w['name']}' ({percent(w['share'])} of the loss)" for w in harmful)
        return [f"leave {names} at 16 bits{flag}"]
    own = [v for r in report["regions"] if (v := _own(r)) is not None]
    if len(own) <= WORST or any(w["share"] for w in tensors):
        return []
    usual = median(own)
    apart = [w for w in tensors if w["sqnr_db"] is not None and w["sqnr_db"] < usual - APART_DB][:2]
    names = " and ".join(f"'{w['name']}' ({decibels(w['sqnr_db'])} by its own quantizer)" for w in apart)
    return [f"leave {names} at 16 bits{flag}: {decibels(usual)} is usual"] if apart else []
