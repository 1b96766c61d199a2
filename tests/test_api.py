"""The functions: models and samples in every form, passes of other packages, types that hold under mypy."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader

import onnx_ocs
from onnx_ocs.errors import UserError
from onnx_ocs.passes import DEFAULT

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "models" / "digits.w8a2.onnx"
CALIB = ROOT / "models" / "digits.calib.npz"
PIXELS = np.load(CALIB)["pixels"][:32]
FEEDS = [{"pixels": PIXELS[k : k + 8]} for k in range(0, 32, 8)]


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """As onnxruntime's documentation writes it: read once, no rewind."""

    def __init__(self) -> None:
        self.feeds = iter(FEEDS)

    def get_next(self) -> Any:
        return next(self.feeds, None)


class Loader:
    """Reads its data anew every time, as torch's DataLoader does."""

    def __init__(self) -> None:
        self.times = 0

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        self.times += 1
        yield from FEEDS


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("calib") / "c.npz"
    np.savez(path, pixels=PIXELS)
    return rewritten(path)


def rewritten(calib: Any) -> bytes:
    result = onnx_ocs.rewrite(DIGITS, calib=calib, passes=[p() for p in DEFAULT], verify=False)
    assert result.changed
    assert result.report["quality"]["samples"] == len(PIXELS)
    data: bytes = result.model.SerializeToString(deterministic=True)
    return data


@pytest.mark.parametrize(
    "calib",
    [lambda: {"pixels": PIXELS}, lambda: FEEDS, lambda: (f for f in FEEDS), Loader, Reader],
    ids=["arrays", "list", "generator", "loader", "CalibrationDataReader"],
)
def test_samples_of_every_kind(expected, calib):
    given = calib()
    assert rewritten(given) == expected
    assert not isinstance(given, Loader) or given.times > 1, "it is read again, not kept"


def broken() -> Iterator[dict[str, np.ndarray]]:
    yield FEEDS[0]
    raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("calib", "message"),
    [
        (5, "cannot be read from a int"),
        ([1, 2], "feed 0 of the calibration data is a int"),
        ([], "gives no feed"),
        (iter(()), "gives no feed"),
        ({"image": PIXELS}, "lacks input 'pixels'"),
        ({"pixels": PIXELS[:, :, :5]}, "takes"),
        ({"pixels": PIXELS.tolist()}, "give a numpy array"),
        (broken(), "the disk is gone"),
        ("nothing.npz", "does not exist"),
    ],
)
def test_bad_samples(calib, message):
    with pytest.raises(UserError, match=re.escape(message)):
        onnx_ocs.rewrite(DIGITS, calib=calib)


def test_model_or_path(tmp_path):
    model = onnx.load(DIGITS)
    before = model.SerializeToString(deterministic=True)
    result = onnx_ocs.rewrite(model)
    assert model.SerializeToString(deterministic=True) == before
    assert result.path is None
    written = onnx_ocs.rewrite(str(DIGITS), str(tmp_path / "o.onnx"))
    assert written.path == tmp_path / "o.onnx"
    assert onnx.load(written.path) == written.model == result.model
    assert onnx_ocs.verify(model, written.path)["verification"]["verdict"] == "PASSED"
    assert len(onnx_ocs.inspect(model)["regions"]) == 13
    plan, found = onnx_ocs.plan(model, {"pixels": PIXELS[:16]})
    assert found["chosen"]
    assert plan.predicted


# ---- passes of other packages ---------------------------------------------------------------------------------------

POLISH = '''
from dataclasses import dataclass
from typing import ClassVar

from onnx_ocs.passes import PassResult


@dataclass(frozen=True)
class Polish:
    """Signs the model."""

    seed: int = 0
    ratio: float = 0.0

    name: ClassVar[str] = "polish"
    version: ClassVar[str] = "3"

    def run(self, model, context):
        if model.domain == "polished":
            return PassResult(False)
        model.domain = "polished"
        return PassResult(True, notes=[f"polished with {self.ratio}"])


not_a_pass = int
'''


@pytest.fixture
def other_package(tmp_path, monkeypatch):
    """An installed package that registers passes."""
    folder = tmp_path / "site"
    info = folder / "polish_pass-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "polish_pass.py").write_text(POLISH)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: polish-pass\nVersion: 1.0\n")
    entries = {"polish": "polish_pass:Polish", "broken": "polish_pass:Missing", "int": "polish_pass:not_a_pass"}
    lines = "".join(f"{k} = {v}\n" for k, v in entries.items())
    (info / "entry_points.txt").write_text(f"[onnx_ocs.passes]\n{lines}")
    monkeypatch.syspath_prepend(folder)
    yield
    sys.modules.pop("polish_pass", None)


def test_pass_of_another_package(run, tmp_path, other_package):
    code, out, err = run("rewrite", DIGITS, "o.onnx", "--passes", "translate,polish", "--ratio", "0.25", "--no-verify")
    assert (code, err) == (0, "")
    assert "Note: polished with 0.25." in out
    model = onnx.load(tmp_path / "o.onnx")
    assert model.domain == "polished"
    history = next(p.value for p in model.metadata_props if p.key == "onnx_ocs.passes")
    assert '"pass": "polish", "version": "3"' in history


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "the pass 'broken' (polish_pass:Missing) cannot be loaded: AttributeError"),
        ("int", "the pass 'int' (polish_pass:not_a_pass) has no name, version, run"),
        ("nothing", "there is no pass 'nothing': choose from regrid, translate"),
    ],
)
def test_pass_that_cannot_be_used(run, tmp_path, other_package, name, message):
    code, out, err = run("rewrite", DIGITS, "o.onnx", "--passes", name)
    assert (code, out) == (1, "")
    assert message in err
    assert not (tmp_path / "o.onnx").exists()


# ---- types ----------------------------------------------------------------------------------------------------------


def test_types(tmp_path):
    """Scripts of README and docs hold under mypy, as strict as the package itself; the README's is short.

    The package comes from the cache that `mypy -p onnx_ocs` leaves: to check it is that command's work, not this one's.
    """
    pytest.importorskip("mypy")
    package = Path(onnx_ocs.__file__).parent
    assert (package / "py.typed").exists()
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    scripts = [s for p in pages for s in re.findall(r"```python\n(.*?)```", p.read_text(encoding="utf-8"), re.S)]
    assert scripts and len([line for line in scripts[0].splitlines() if line.strip()]) <= 10
    scripts.append(scripts[0].replace("onnx_ocs.rewrite(", "onnx_ocs.rewrite(5, ", 1))  # a mistake that is noticed
    for k, text in enumerate(scripts):
        (tmp_path / f"script{k}.py").write_text(text)
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    env = dict(os.environ)
    if "site-packages" not in package.parts:
        env["MYPYPATH"] = str(package.parent)
    command = [sys.executable, "-m", "mypy", *options, *(f"script{k}.py" for k in range(len(scripts)))]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    found = re.findall(r"^\S+:\d+: error: .*$", done.stdout, re.M)
    errors = [e for e in found if "onnx_ocs" in e or not re.search(r"\[import-(not-found|untyped)\]$", e)]
    assert done.returncode == 1 and errors, done.stdout + done.stderr
    assert all(line.startswith(f"script{len(scripts) - 1}.py:") for line in errors), done.stdout
    assert 'to "rewrite"' in errors[0]


@pytest.mark.parametrize(
    "first", ["onnx_ocs", "onnx_ocs.api", "onnx_ocs.verbs.plan", "onnx_ocs.verification.verify", "onnx_ocs.cli"]
)
def test_verbs_are_functions(first):
    """No module of the package hides a verb, whatever was imported before."""
    code = f"import {first}, onnx_ocs; print([callable(getattr(onnx_ocs, v)) for v in onnx_ocs.__all__ for _ in '12'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "False" not in done.stdout
