"""Is a rewritten model its original plus what it declares?  Node by node and byte by byte, without running anything.

The nodes of the rewritten model are gone through in order.  Each is either a node of the original, with the same
attributes, constants and inputs, or belongs to a declared construct: copies made in front of a quantizer, or copies
folded back.  What every tensor holds is known in terms of the original's (`onnx_ocs.verification.values`); in the end
every graph output must be the original's, every node of the original must have been found, and nothing may be left
over.

The yardstick is computed from the original and the declarations alone; no code of the rewriter is called.
"""

from __future__ import annotations

import onnx

from onnx_ocs.model.graph import Graph
from onnx_ocs.probes.rescaled import Steps
from onnx_ocs.verification.comparison import DAMAGED, Comparison, Structure
from onnx_ocs.verification.declared import Declared
from onnx_ocs.verification.values import Differs

__all__ = ["Structure", "compare"]

MOST = 6  # failures that are listed


def compare(original: onnx.ModelProto, rewritten: onnx.ModelProto) -> Structure:
    """Compare a rewritten model, without the branches that it added, with its original.

    Args:
        original: the model before.
        rewritten: the model after.

    Returns:
        What was found; no exception is raised for whatever the files hold.
    """
    found = Structure()
    try:
        before, after = Graph(original), Graph(rewritten)
        found.declared = Declared.read(before, after)
    except Differs as d:
        found.failures.append(str(d))
        return found
    except DAMAGED as e:
        found.failures.append(f"the rewritten model cannot be read ({type(e).__name__}: {e})")
        return found
    if found.declared.undated:
        found.notes.append(
            "the file does not repeat its new steps (an older version wrote it): they are taken as they are"
        )
    found.steps = Steps(before, found.declared.scales)
    found.failures += found.steps.broken
    Comparison(before, after, found).run()
    if len(found.failures) > MOST:
        found.failures[MOST:] = [f"and {len(found.failures) - MOST} more places differ from the original"]
    return found
