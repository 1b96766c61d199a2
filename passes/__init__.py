"""The passes: one file each, one small class with typed options and one method that returns a result."""

from onnx_ocs.passes.compensate import Compensate
from onnx_ocs.passes.translate import Translate

__all__ = ["PASSES", "Compensate", "Translate"]

PASSES: dict[str, type[Translate] | type[Compensate]] = {p.name: p for p in (Translate, Compensate)}
