"""Plans as files: written, read back, applied; damaged ones are said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from planned import CALIB, DIGITS, FEW, extra_macs, fed, files, plan

from onnx_ocs import api
from onnx_ocs.model.files import fingerprint
from onnx_ocs.passes.translate import Translate
from onnx_ocs.planning.plan import Plan

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


@pytest.fixture(scope="module")
def plan_text(folder: Path) -> str:
    return plan("digits", folder, budget=0.1)[0].to_json()


def test_plan_file(run: Any, tmp_path: Path, plan_text: str) -> None:
    """Written, read back, and applied: the same bytes each time, and the same model as from Python."""
    code, out, err = run("plan", DIGITS, "-o", "p.json", "--calib", CALIB, *FEW, "--budget", 0.1)
    assert (code, err) == (0, "") and out
    assert (tmp_path / "p.json").read_text() == plan_text
    read = Plan.read(tmp_path / "p.json")
    assert read.to_json() == plan_text
    json.loads(plan_text, parse_constant=pytest.fail)
    for name in ("a", "b"):
        code, out, err = run("rewrite", DIGITS, f"{name}.onnx", "--plan", "p.json", "--report", f"{name}.json")
        assert (code, err) == (0, "") and out.splitlines()[-1].startswith("PASSED")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes() != DIGITS.read_bytes()
    result = api.rewrite(onnx.load(DIGITS), passes=[Translate(plan=read)], verify=False)
    assert result.model == onnx.load(tmp_path / "a.onnx")
    report = json.loads((tmp_path / "a.json").read_text())
    assert extra_macs(report) <= 0.1
    applied = {e["tensor"]: e for e in report["regions"] if e["status"] == "applied"}
    for r in read.regions:
        e = applied[r.tensor]
        assert (e["copies"], e["copies_low"], e["scale"]) == (
            r.copies.tolist(),
            r.copies_low.tolist(),
            r.scale.tolist(),
        )
    # once more on its own result: nothing to do
    code, out, err = run("rewrite", "a.onnx", "c.onnx", "--plan", "p.json")
    assert (code, err) == (0, "") and "nothing" in out.splitlines()[-1]
    assert (tmp_path / "c.onnx").read_bytes() == (tmp_path / "a.onnx").read_bytes()


def test_rewrite_is_plan_and_apply(run: Any, tmp_path: Path) -> None:
    """`rewrite --budget` gives what `plan` and `rewrite --plan` give (the dry run is the same code path)."""
    args = [*files(tmp_path, "residual"), "--copies", 2, "--budget", 0.3]
    assert run("plan", "-o", "p.json", *args)[0] == 0
    assert run("rewrite", "in.onnx", "a.onnx", "--plan", "p.json", "-q")[0] == 0
    assert run("rewrite", args[0], "b.onnx", *args[1:], "-q")[0] == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert (tmp_path / "a.onnx").read_bytes() != (tmp_path / "in.onnx").read_bytes()


def test_plan_written_by_hand(run: Any, tmp_path: Path, plan_text: str) -> None:
    """Without the hash of a model it is taken as it is."""
    data = json.loads(plan_text)
    del data["model"], data["predicted"]
    (tmp_path / "p.json").write_text(json.dumps(data))
    (tmp_path / "q.json").write_text(plan_text)
    for name in "pq":
        assert run("rewrite", DIGITS, f"{name}.onnx", "--plan", f"{name}.json", "-q")[0] == 0
    assert (tmp_path / "p.onnx").read_bytes() == (tmp_path / "q.onnx").read_bytes()


def test_empty_plan(run: Any, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(Plan(fingerprint(onnx.load(DIGITS)), ()).to_json())
    code, out, err = run("rewrite", DIGITS, "o.onnx", "--plan", "p.json")
    assert (code, err) == (0, "") and "nothing" in out.splitlines()[-1]
    assert (tmp_path / "o.onnx").read_bytes() == DIGITS.read_bytes()


def region(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    """A change of the plan's first region."""
    return lambda data: change(data["regions"][0])


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "schema": lambda d: d.update(schema="onnx_ocs.plan/2"),
    "no schema": lambda d: d.pop("schema"),
    "another model": lambda d: d.update(model="0" * 64),
    "no regions": lambda d: d.pop("regions"),
    "regions null": lambda d: d.update(regions=None),
    "regions a word": lambda d: d.update(regions="all"),
    "predicted a number": lambda d: d.update(predicted=5),
    "tensor": region(lambda r: r.update(tensor="nobody")),
    "tensor missing": region(lambda r: r.pop("tensor")),
    "quantizers": region(lambda r: r.update(quantizers=["nobody"])),
    "quantizers a number": region(lambda r: r.update(quantizers=5)),
    "channel missing": region(lambda r: r["copies"].pop()),
    "channel too many": region(lambda r: r["copies_low"].append(0)),
    "copies a number": region(lambda r: r.update(copies=1)),
    "copies words": region(lambda r: r.update(copies=["many"] * 16)),
    "copies null": region(lambda r: r.update(copies=None)),
    "copies fractions": region(lambda r: r.update(copies=[0.5] * len(r["copies"]))),
    "copies negative": region(lambda r: r["copies"].__setitem__(0, -1)),
    "copies_low negative": region(lambda r: r["copies_low"].__setitem__(0, -2)),
    "copies many": region(lambda r: r["copies"].__setitem__(0, 10**9)),
    "copies huge": region(lambda r: r["copies"].__setitem__(0, 10**30)),
    "mode": region(lambda r: r.update(mode="eager")),
    "mode missing": region(lambda r: r.pop("mode")),
    "scale zero": region(lambda r: r.update(scale=0.0)),
    "scale negative": region(lambda r: r.update(scale=-0.5)),
    "scale NaN": region(lambda r: r.update(scale=float("nan"))),
    "scale infinite": region(lambda r: r.update(scale=float("inf"))),
    "scale vanishes": region(lambda r: r.update(scale=1e-60)),
    "scale overflows": region(lambda r: r.update(scale=1e60)),
    "scale a list": region(lambda r: r.update(scale=[0.5, 0.5])),
    "scale a word": region(lambda r: r.update(scale="fine")),
    "region a word": lambda d: d["regions"].insert(0, "first"),
}


def complains(run: Any, *args: object) -> str:
    """Exit code 1, one line, no output."""
    code, out, err = run(*args)
    assert (code, out) == (1, ""), (out, err)
    assert err.startswith("Error: ") and len(err.splitlines()) == 1 and "Traceback" not in err
    return str(err)


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_plan(run: Any, tmp_path: Path, plan_text: str, name: str) -> None:
    data = json.loads(plan_text)
    DAMAGES[name](data)
    (tmp_path / "p.json").write_text(json.dumps(data))
    complains(run, "rewrite", DIGITS, "o.onnx", "--plan", "p.json")
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize("content", [b"", b"no plan", b"[1, 2]", b'"plan"', b"null", b"{}", b"\xff\xfe\x00", b"{"])
def test_file_that_is_no_plan(run: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.json").write_bytes(content)
    assert "p.json" in complains(run, "rewrite", DIGITS, "o.onnx", "--plan", "p.json")
    assert not (tmp_path / "o.onnx").exists()


def test_plan_of_another_model(run: Any, tmp_path: Path, plan_text: str) -> None:
    """Another network; and the same one with other weights, which the plan was not made for."""
    (tmp_path / "p.json").write_text(plan_text)
    onnx.save(fed("residual")[0], tmp_path / "other.onnx")
    complains(run, "rewrite", "other.onnx", "o.onnx", "--plan", "p.json")
    model = onnx.load(DIGITS)
    weight = next(t for t in model.graph.initializer if "weight" in t.name and len(t.dims) == 4)
    weight.raw_data = weight.raw_data[::-1]
    onnx.save(model, tmp_path / "retrained.onnx")
    complains(run, "rewrite", "retrained.onnx", "o.onnx", "--plan", "p.json")
    assert not (tmp_path / "o.onnx").exists()
