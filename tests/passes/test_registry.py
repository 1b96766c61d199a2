"""Passes by name, those of other packages too, and their options by address."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onnx_ocs.errors import UserError
from onnx_ocs.passes import PASSES, Compensate, Translate
from onnx_ocs.passes.registry import GROUP, Auto, as_passes, find_pass, make_passes, moves_of


def test_every_pass_is_found_by_its_name() -> None:
    for name, kind in PASSES.items():
        assert find_pass(name) is kind
        assert make_passes([name]) == [kind()]
        assert kind.name == name and kind.version and callable(kind.run) and kind.__doc__


def test_addresses() -> None:
    options = {"translate.ratio": 0.25, "compensate.budget": 0.2, "compensate.linear": True, "split.ratio": 1.0}
    made = make_passes(["translate", "compensate"], options)
    assert made == [Translate(0.25), Compensate(0.2, linear=True)]


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["polish"], {}, "there is no pass 'polish': choose from regrid, translate, .*; or 'auto' alone"),
        (["translate", "split"], {}, "widen the same tensors"),
        (["translate", "translate"], {}, "the pass 'translate' is named twice"),
        (["translate"], {"translate.budget": 1}, "the pass 'translate' has no option 'budget'"),
        (["translate"], {"translate.name": "x"}, "the pass 'translate' has no option 'name'"),
    ],
)
def test_mistakes(names: list[str], options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_passes(names, options)


def test_what_a_pass_needs_is_at_hand() -> None:
    import onnx_ocs.passes
    from onnx_ocs.passes import __all__ as names

    assert all(getattr(onnx_ocs.passes, n) is not None for n in names)
    with pytest.raises(AttributeError, match="has no attribute 'Polish'"):
        _ = onnx_ocs.passes.Polish  # type: ignore[attr-defined]


# ---- passes of other packages ---------------------------------------------------------------------------------------

OTHER = """
class Polish:
    name, version = "polish", "3"

    def run(self, model, context): ...


class Translate(Polish):
    name = "translate"


class Half:
    name = "half"
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package that registers passes, one of them under a name that is taken."""
    info = tmp_path / "polish_pass-1.0.dist-info"
    info.mkdir()
    (tmp_path / "polishing.py").write_text(OTHER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: polish-pass\nVersion: 1.0\n")
    entries = {"polish": "Polish", "translate": "Translate", "half": "Half", "gone": "Gone"}
    lines = "".join(f"{k} = polishing:{v}\n" for k, v in entries.items())
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("polishing", None)


def test_those_of_another_package(installed: None) -> None:
    kind = find_pass("polish")
    assert (kind.__module__, kind.name, kind.version) == ("polishing", "polish", "3")


def test_a_name_of_this_package_is_its_own(installed: None) -> None:
    assert find_pass("translate") is PASSES["translate"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", r"there is no pass 'nothing': choose from regrid, translate, split, .*gone, half, polish"),
        ("gone", r"the pass 'gone' \(polishing:Gone\) cannot be loaded: AttributeError"),
        ("half", r"the pass 'half' \(polishing:Half\) has no version, run: it is no pass of onnx_ocs"),
    ],
)
def test_what_cannot_be_used_is_said(installed: None, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_pass(name)


def test_passes_however_they_are_given() -> None:
    made = [Translate(), Compensate()]
    for given in (made, "translate, compensate", ["translate", "compensate"], ["translate", Compensate()]):
        assert as_passes(given) == made
    assert as_passes("auto") == as_passes(["auto"]) == Auto() and as_passes(Auto((made[0],))).moves == (made[0],)
    assert [p.name for p in Auto().moves] == ["regrid", "translate", "reconstruct", "compensate"]
    assert moves_of(["auto"]) == (["regrid", "translate", "reconstruct", "compensate"], True)
    assert moves_of(["split"]) == (["split"], False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([Translate], r"is no pass: give one such as Translate\(\), or a name such as 'translate'"),
        ([3], "3 is no pass"),
        (["auto", Translate()], "'auto' chooses the passes: give it alone"),
        ("auto,split", "'auto' chooses the passes: give it alone"),
        ("translate,translate", "the pass 'translate' is named twice"),
        (["translate", "split"], "widen the same tensors"),
    ],
)
def test_what_is_no_pass(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        as_passes(given)
