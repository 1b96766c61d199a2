"""The passes: one file each, one small class with typed options and one method that returns a result.

A new pass is one file here, one line in `PASSES`, and its test; its options appear on the command line by themselves
(`onnx_ocs.options`).  The command line reads the options of all passes before it knows what is wanted, so a file here
imports what is heavy (onnx, numpy, our own packages that use them) only when the pass runs.
"""

from onnx_ocs.passes.compensate import Compensate
from onnx_ocs.passes.split import Split
from onnx_ocs.passes.translate import Translate

__all__ = ["PASSES", "Compensate", "Split", "Translate"]

PASSES: dict[str, type[Translate] | type[Split] | type[Compensate]] = {
    p.name: p for p in (Translate, Split, Compensate)
}
