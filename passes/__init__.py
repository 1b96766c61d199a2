"""The passes: one file each, one small class with typed options and one method that returns a result."""

from onnx_ocs.passes.translate import Translate

__all__ = ["PASSES", "Translate"]

PASSES: dict[str, type[Translate]] = {Translate.name: Translate}
