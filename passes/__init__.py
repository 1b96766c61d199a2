"""The passes: one file each, one small class with typed options and one method that returns a result."""

from onnx_ocs.passes.compensate import Compensate
from onnx_ocs.passes.split import Split
from onnx_ocs.passes.translate import Translate

__all__ = ["PASSES", "Compensate", "Split", "Translate"]

PASSES: dict[str, type[Translate] | type[Split] | type[Compensate]] = {
    p.name: p for p in (Translate, Split, Compensate)
}
