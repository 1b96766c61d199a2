"""The passes: one file each, one small class with typed options and one method that returns a result.

A pass of your own is a class with `name`, `version` and `run(model, context)`, as :class:`Pass` says.  A new pass of
this package is one file here, one line in `PASSES`, and its test; its options appear on the command line by themselves
(`onnx_ocs.options`).  The command line reads the options of all passes before it knows what is wanted, so a file here
imports what is heavy (onnx, numpy, our own packages that use them) only when the pass runs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from onnx_ocs.passes.compensate import Compensate
from onnx_ocs.passes.reconstruct import Reconstruct
from onnx_ocs.passes.regrid import Regrid
from onnx_ocs.passes.split import Split
from onnx_ocs.passes.translate import Translate

if TYPE_CHECKING:
    from onnx_ocs.calibration.context import Context
    from onnx_ocs.passmanager import Pass, PassResult, run_passes

__all__ = [
    "DEFAULT", "DEFAULT_BLIND", "MOVES", "PASSES", "Compensate", "Context", "Pass", "PassResult", "Reconstruct",
    "Regrid", "Split", "Translate", "run_passes",
]  # fmt: skip

PASSES: dict[str, type[Regrid] | type[Translate] | type[Split] | type[Reconstruct] | type[Compensate]] = {
    p.name: p for p in (Regrid, Translate, Split, Reconstruct, Compensate)
}
DEFAULT = (Regrid, Translate, Reconstruct)  # what runs with calibration samples, where nothing else is said
DEFAULT_BLIND = (Translate,)  # and without
MOVES = (Regrid, Translate, Reconstruct, Compensate)  # what `auto` tries: what is free first


def __getattr__(name: str) -> Any:
    """What a pass of one's own needs, imported when it is asked for."""
    if name in __all__:
        home = "onnx_ocs.calibration.context" if name == "Context" else "onnx_ocs.passmanager"
        return getattr(import_module(home), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
