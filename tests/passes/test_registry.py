"""Passes by name, and their options by address."""

from __future__ import annotations

import pytest

from onnx_ocs.errors import UserError
from onnx_ocs.passes import PASSES, Compensate, Translate
from onnx_ocs.passes.registry import find_pass, make_passes


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
        (["polish"], {}, "there is no pass 'polish': choose from translate, "),
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
