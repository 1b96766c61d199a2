"""What is released: the files of wheel and sdist, a wheel from the sdist alone, one home for the version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DATA = ("py.typed", ".j2", ".json")  # what the package reads, besides its modules
SHIPPED = ("pyproject.toml", "README.md", "LICENSE")


def sources() -> set[str]:
    """The files of the package as they are installed: `passes/` of the root is onnx_ocs/passes."""
    inside = [p for p in (ROOT / "onnx_ocs").rglob("*") if not p.relative_to(ROOT).is_relative_to("onnx_ocs/passes")]
    found = {str(p.relative_to(ROOT)) for p in inside if p.is_file() and p.name.endswith((".py", *DATA))}
    return found | {f"onnx_ocs/passes/{p.name}" for p in (ROOT / "passes").glob("*.py")}


def built(kind: str, tree: Path, out: Path) -> Path:
    """A distribution of a tree, as `python -m build --no-isolation` makes it."""
    call = f"import sys, setuptools.build_meta as b; print(b.build_{kind}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", call, out], cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads, with the link, and without what earlier builds left."""
    tree = tmp_path_factory.mktemp("release") / "tree"
    for folder in ("onnx_ocs", "passes"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / folder, tree / folder, symlinks=True, ignore=ignored)
    for name in SHIPPED:
        shutil.copy(ROOT / name, tree)
    return tree


@pytest.fixture(scope="module")
def sdist(tree: Path) -> Path:
    return built("sdist", tree, tree.parent)


@pytest.fixture(scope="module")
def wheels(tree: Path, sdist: Path) -> list[Path]:
    """Wheels of the tree, and of what is in the sdist."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tree.parent / "unpacked", filter="data")
    (unpacked,) = (tree.parent / "unpacked").iterdir()
    places = [tree.parent / name for name in ("of_tree", "of_sdist")]
    for place in places:
        place.mkdir()
    return [built("wheel", source, place) for source, place in zip((tree, unpacked), places, strict=True)]


def test_the_wheel_holds_the_package_and_nothing_else(wheels: list[Path]) -> None:
    for wheel in wheels:
        names = zipfile.ZipFile(wheel).namelist()
        about = {n for n in names if n.split("/")[0].endswith(".dist-info")}
        assert set(names) - about == sources()
        assert len(names) == len(set(names)) and any(n.endswith("licenses/LICENSE") for n in about)


def test_the_sdist_holds_what_a_build_needs(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        assert not [m.name for m in archive if m.issym() or m.islnk()]
        names = {m.name.partition("/")[2] for m in archive if m.isfile()}
    made = {n for n in names if n.startswith("onnx_ocs.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    passes = {n.replace("onnx_ocs/passes/", "passes/") for n in sources()}
    assert names - made == passes | set(SHIPPED)


def test_the_wheel_of_the_sdist_runs(wheels: list[Path], tmp_path: Path) -> None:
    zipfile.ZipFile(wheels[1]).extractall(tmp_path / "site")
    code = "import onnx_ocs.passes, onnx_ocs.report.html as h; print(onnx_ocs.passes.__file__, *onnx_ocs.passes.PASSES)"
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    where, *passes = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env=env, text=True).split()
    assert Path(where).is_relative_to(tmp_path / "site") and {"translate", "reconstruct", "compensate"} <= set(passes)


def test_the_packages_are_all_named() -> None:
    folders = {p.parent for p in (ROOT / "onnx_ocs").rglob("__init__.py")} | {ROOT / "onnx_ocs/passes"}
    named = PROJECT["tool"]["setuptools"]["packages"]
    assert sorted(named) == sorted(str(f.relative_to(ROOT)).replace("/", ".") for f in folders)


def test_the_version_has_one_home() -> None:
    version = PROJECT["project"]["version"]
    texts = {p: p.read_text(encoding="utf-8") for p in [*(ROOT / "onnx_ocs").rglob("*.py"), ROOT / "docs/CITATION.cff"]}
    assert not [str(p) for p, text in texts.items() if re.search(rf"\b{re.escape(version)}\b", text)]


def test_pythons_are_stated_as_far_as_they_were_tried() -> None:
    stated = re.findall(r"Python :: (\d\.\d+)", " ".join(PROJECT["project"]["classifiers"]))
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    tried = re.findall(r"^\| Python (\d\.\d+)", page, re.M)
    assert stated and stated == tried
