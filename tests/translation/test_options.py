"""The options that the passes and the planner share mean one thing everywhere."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

import pytest

from onnx_ocs.options import Option
from onnx_ocs.passes import Split, Translate
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.translation.options import ALIGN, COPIES, MODE, RATIO, Mode

SHARED = {"ratio": RATIO, "copies": COPIES, "align": ALIGN, "mode": MODE}


@pytest.mark.parametrize("kind", [Translate, Split, PlanOptions])
def test_they_are_shared(kind: type) -> None:
    found = {f.name: Option(**f.metadata) for f in fields(kind) if f.name in SHARED}  # type: ignore[arg-type]
    assert found == {k: SHARED[k] for k in found} and {"ratio", "mode"} <= found.keys()


def test_every_mode_is_explained() -> None:
    assert all(f"{mode}: " in MODE.help for mode in get_args(Mode))
