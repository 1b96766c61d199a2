"""The option --target: one flag for all that ask it."""

from __future__ import annotations

from onnx_ocs.cli.options import flags_of
from onnx_ocs.passes.translate import Translate
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.targets.choice import RUNTIME


def test_passes_and_plans_share_it() -> None:
    found = [next(f for f in flags_of(kind) if f.name == "--target") for kind in (Translate, PlanOptions)]
    assert all(f.option == RUNTIME and f.default == "ort" and "generic-int8" in f.choices for f in found)
