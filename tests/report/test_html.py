"""The HTML report: self-contained, escaped, bounded in size, the same for the same report."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tried import entry

from onnx_ocs import api
from onnx_ocs.passes import DEFAULT, PASSES
from onnx_ocs.report import html
from onnx_ocs.report.html import CARDS, to_html

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "digits.w8a2.onnx"
CALIB = ROOT / "models" / "digits.calib.npz"
NOTHING = ROOT / "tests" / "data" / "ort_cnn_l17_f8.onnx"
VOID = {"meta", "br", "wbr", "img", "link", "hr", "input", "path", "use"}
EVIL = "/layer/<script>alert('x')</script>&amp;$x^2$/" + "long/" * 40 + "\x1b[2J\u202e\udcff"


class Page(HTMLParser):
    """A page's tags, ids, references and text; complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.used: set[str] = set(re.findall(r"url\(#([^)]*)\)", text))
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("href", "src", "xlink:href", "srcset"):
                self.links.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def check(text: str) -> Page:
    """What holds for every page: nothing loaded, no script, references that resolve, colours that follow the theme."""
    page = Page(text)
    assert "script" not in page.tags
    assert all(link.startswith("#") for link in page.links)
    assert "@import" not in text
    assert re.sub(r'xmlns(:xlink)?="[^"]*"', "", text).count("://") == 0
    assert len(page.ids) == len(set(page.ids))
    assert page.used | {link[1:] for link in page.links} <= set(page.ids)
    assert re.findall(r"(?:fill|stroke): #\w+", text) == []
    assert "prefers-color-scheme: dark" in text
    return page


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return api.rewrite(DIGITS, calib=str(CALIB), passes=[p() for p in DEFAULT], limit=64).report


@pytest.fixture(scope="module")
def plain(report: dict[str, Any]) -> str:
    """Its page."""
    return to_html(report, "x")


@pytest.fixture(scope="module")
def short(report: dict[str, Any]) -> dict[str, Any]:
    """The report with one region and no layers: almost nothing is drawn, where drawings are not asked about."""
    return {**report, "regions": report["regions"][:1], "reconstructions": []}


def test_rewrite(run, tmp_path):
    code, _, err = run(
        "rewrite", DIGITS, "o.onnx", "--calib", CALIB, "--samples", 64, "--budget", "0.2", "--effort", "quick",
        "--html", "r.html", "--report", "r.json", "-q",
    )  # fmt: skip
    assert (code, err) == (0, "")
    applied = [r for r in json.loads((tmp_path / "r.json").read_text())["regions"] if r["status"] == "applied"]
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    page = check(text)
    assert "digits.w8a2.onnx → o.onnx" in page.text
    assert "PASSED" in page.text
    assert all(r["tensor"] in page.text for r in applied)
    for heading in ("Error along the graph", "Changed tensors", "Activations and their grids", "Left alone", "Cost"):
        assert heading in page.text
    assert page.tags.count("svg") == 4 + len(applied)  # activations and layers are drawn for two widths
    assert sorted(f.name for f in tmp_path.iterdir()) == ["o.onnx", "r.html", "r.json"]
    assert run("verify", DIGITS, "o.onnx", "--html", "v.html", "-q")[0] == 0
    assert "PASSED" in check((tmp_path / "v.html").read_text(encoding="utf-8")).text


def test_the_first_screen_answers_ship_or_not(report, plain, short):
    """Before anything else: the answer, latency, size, and every output, also where there is only one."""
    text = check(plain).text
    first = text[: text.index("Error along the graph")]
    ratio = report["latency"]["ratio"]
    assert first.index("Ready to ship: proven, and better") < first.index("PASSED") < first.index("Outputs")
    assert f"× {ratio:.2f}" in first and "file size" in first and report["outputs"][0]["name"] in first
    assert first.index("PASSED") < first.index(f"Next: {report['verdict']['next'][0]}.") < first.index("file size")
    assert "same answer" in first and "same answer as float" not in first
    assert "same answer as float" not in check(to_html(short, "x")).text
    against_float = {**short, "quality": {**report["quality"], "reference": "float model"}}
    assert "same answer as float" in check(to_html(against_float, "x")).text
    failed = {**short, "verification": {**report["verification"], "verdict": "FAILED"}}
    assert "Do not ship: the verification failed." in check(to_html(failed, "x")).text


def test_the_graph_around_a_changed_tensor(report, plain):
    r = next(r for r in report["regions"] if r["status"] == "applied" and r["consumers"])
    picture = re.findall(r'<p class="path small">(.*?)</p>', plain)
    around = [re.sub("<.*?>", "", p) for p in picture]
    assert any(p.startswith(f"{r['producer']} → Q, DQ") and r["consumers"][0] in p for p in around)


def test_inspect_and_plan(run, tmp_path):
    assert run("inspect", DIGITS, "--html", "i.html")[0] == 0
    assert "12 of 13 quantized activations can be rewritten" in check((tmp_path / "i.html").read_text()).text
    options = ("--calib", CALIB, "--samples", 32, "--sweep", "0.05,0.2", "--html", "p.html")
    assert run("plan", DIGITS, "-o", "p.json", *options)[0] == 0
    page = check((tmp_path / "p.html").read_text())
    assert "Gain against cost" in page.text
    assert "extra multiply-accumulates (%)" in page.text


def test_inspect_says_where_the_loss_comes_from(run, tmp_path):
    assert run("inspect", DIGITS, "--calib", CALIB, "--samples", 64, "--html", "i.html", "--report", "i.json")[0] == 0
    page = check((tmp_path / "i.html").read_text())
    regions = json.loads((tmp_path / "i.json").read_text())["regions"]
    worst = sorted(regions, key=lambda r: r["sqnr_alone_db"])
    section = page.text[page.text.index("Loss at the output") :]
    places = [section.index(r["tensor"]) for r in worst]
    assert places == sorted(places) and f"{worst[0]['sqnr_alone_db']:.2f} dB" in section
    assert f"{100 * worst[0]['share_alone']:.1f} %" in section and "cannot be helped" not in section


def test_nothing_to_rewrite(run, tmp_path):
    assert run("rewrite", NOTHING, "o.onnx", "--html", "r.html", "-q")[0] == 0
    page = check((tmp_path / "r.html").read_text())
    assert "0 of 9 quantized activations rewritten" in page.text
    assert "float8" in page.text
    assert "svg" not in page.tags and "Nothing new to ship" in page.text


def test_empty_and_one(report):
    none = {**report, "regions": [], "reconstructions": []}
    assert "svg" not in check(to_html(none, "none")).tags
    one = {**none, "regions": [r for r in report["regions"] if r["status"] == "applied"][:1]}
    assert check(to_html(one, "one")).tags.count("svg") == 1


def test_names_are_escaped_and_the_size_is_bounded(report, plain, monkeypatch):
    """Two hundred regions with hostile names: no markup gets through, histograms are drawn for `CARDS` of them."""
    some, most = 20, 1_500_000 * 20 // CARDS  # a third of the cards may take a third of the bytes
    monkeypatch.setattr(html, "CARDS", some)
    big = copy.deepcopy(report)
    big["regions"] = []
    for k in range(240):
        r = copy.deepcopy(report["regions"][k % 13])
        r |= {"tensor": f"{k}{EVIL}", "activation": "<b>bold</b>"}
        if r["reason"]:
            r["reason"] = {"code": "<i>", "message": EVIL, "node": EVIL}
        big["regions"].append(r)
    entry = {"block": EVIL, "alpha": 0.1, "beta": None, "rank": 8, "sqnr_before_db": 5.0, "sqnr_after_db": 7.0}
    big["compensations"] = [
        {**entry, "status": "applied", "reason": None},
        {**entry, "status": "refused", "reason": {"code": "no_gain", "message": EVIL, "node": EVIL}},
    ]
    big["notes"] = [EVIL]
    text = to_html(big, EVIL)
    page = check(text)
    assert not {"b", "i"} & (set(page.tags) - set(check(plain).tags))
    assert page.tags.count("svg") == 4 + some
    assert "alert('x')" in page.text
    assert "1 block compensated" in page.text
    assert len(text) < most and not {"\x1b", "\u202e", "\udcff"} & {*text}


def test_per_channel_signed_and_wide_grids(report):
    """Grids that the example does not have: a scale for every channel, negative values, 16 bits, nothing measured."""
    regions = [copy.deepcopy(r) for r in report["regions"] if r["status"] == "applied"][:4]
    for r in regions[:2]:
        n = len(r["copies"])
        r |= {"scale": [0.1] * n, "scale_before": [0.1] * n, "zero_point": [7] * n, "qmin": -128, "qmax": 127}
        r |= {"x_clip": [12.0] * n, "x_clip_after": [12.0 + k for k in range(n)], "copies_low": [1] * n}
        r["histogram"] = {"range": [-20.0, 30.0], "counts": [1, 5, 0, 900000], "saved": [1, 0, 0, 3]}
    regions[2] |= {"qmax": 65535, "scale": 1e-4, "scale_before": 1e-4}
    regions[3] |= {"histogram": None, "error": dict.fromkeys(regions[3]["error"]), "mass_saved": None}
    page = check(to_html({**report, "regions": regions}, "grids"))
    assert "12 → 12 …" in page.text
    assert page.tags.count("svg") == 4 + 3


def test_target(short):
    """A target, and the plans that were measured on the way to it."""
    target = {"kind": "sqnr", "wanted": 12.0, "got": 11.5, "reached": False, "shortfall": "the target was missed"}
    probes = [{"extra_macs": 0.1, "got": 9.5}, {"extra_macs": 1.0, "got": 11.5}]
    plan = {"objective": "sqnr", "before": [0.1, 8.0], "candidates": {}, "target": {**target, "probes": probes}}
    page = check(to_html({**short, "target": target, "plan": plan}, "target"))
    assert "Target missed: output SQNR of at least 12.00 dB, got 11.50 dB" in page.text
    assert "Gain against cost" in page.text


def test_same_report_same_page(report, plain):
    assert plain == to_html(json.loads(json.dumps(report)), "x")


def test_a_failed_verification_is_shown(run, tmp_path, monkeypatch):
    from misbehaved import Misbehaved

    monkeypatch.setitem(PASSES, "misbehaved", Misbehaved)
    code, *_ = run("rewrite", DIGITS, "o.onnx", "--passes", "translate,misbehaved", "--html", "r.html")
    assert code == 2
    assert "FAILED" in check((tmp_path / "r.html").read_text()).text
    assert not (tmp_path / "o.onnx").exists()


def test_missing_library(run, tmp_path, monkeypatch):
    """Said before the work starts, in one line."""
    monkeypatch.setattr(html, "find_spec", lambda name: None if name == "matplotlib" else object())
    monkeypatch.setattr(api, "rewrite", lambda *_, **__: pytest.fail("the work has started"))
    code, out, err = run("rewrite", DIGITS, "o.onnx", "--html", "r.html")
    assert (code, out) == (1, "")
    assert err == "Error: --html needs matplotlib: pip install 'onnx-ocs[report]'\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["o.onnx", DIGITS, "no/r.html"], ids=["the output", "the input", "a missing folder"])
def test_bad_path(run, tmp_path, path):
    code, out, err = run("rewrite", DIGITS, "o.onnx", "--html", path)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_was_tried(short, plain):
    tried = [entry("as it is", 0.0, 1.0, "kept"), entry(EVIL, 1.5, 1.02, "chosen", front=True), entry("c", 1.0, 1.3)]
    trials = {"fitted": 30, "unseen": 10, "limit": 1.1, "stopped": "branches do not pay", "tried": tried}
    page = check(to_html({**short, "trials": trials}, "x"))
    assert "What was tried" in page.text and "gain on unseen samples (dB)" in page.text
    assert "judged on 10 samples that no fit has seen" in page.text and "No more was tried: branches do" in page.text
    assert "What was tried" not in check(plain).text
