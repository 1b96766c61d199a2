"""What a rewrite for a target asks before it starts, says on the way, and checks at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx

from onnx_ocs.errors import PassError, UserError
from onnx_ocs.model.graph import Graph
from onnx_ocs.passes.reconstruct import Reconstruct
from onnx_ocs.passes.regrid import Regrid
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import Pass
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.targets.choice import Runtime
from onnx_ocs.targets.registry import added, complaints, rules_of
from onnx_ocs.targets.timing import ONNXRUNTIME, timing_of

__all__ = ["check_kept", "check_passes", "fitting", "runtime_of", "said_before"]


def runtime_of(passes: Sequence[Pass], options: PlanOptions | None, said: Runtime | None = None) -> Runtime:
    """The runtime that a file is rewritten for.

    Args:
        passes: what runs; some know what they are for.
        options: what is planned.
        said: what the user says, whatever runs; None where nothing is said.
    """
    if said is not None:
        return said
    if options is not None:
        return options.runtime
    named = [p.runtime for p in passes if isinstance(p, (Regrid, Translate)) and p.runtime != "ort"]
    return named[0] if named else "ort"


def said_before(original: onnx.ModelProto, runtime: Runtime) -> list[str]:
    """What is to be known of a target before anything is rewritten for it: rules that the file breaks, whose times."""
    notes = complaints(Graph(original), runtime)
    if runtime == "openvino" and timing_of(runtime) is ONNXRUNTIME:
        notes.append("OpenVINO is not installed here: all times are onnxruntime's (`pip install openvino`)")
    return notes


def fitting(passes: Sequence[Pass], runtime: Runtime, options: PlanOptions | None = None) -> list[Pass]:
    """The passes without what the target does not have: a quantizer that is left out leaves floats.

    Which type of integers is the faster one is known of onnxruntime alone.  What the planner's options say of the time
    holds for all.
    """

    def fits(p: Regrid) -> Regrid:
        leave_out, unsigned = p.leave_out and rules_of(runtime).floats, p.unsigned and runtime == "ort"
        limit = p.max_latency if options is None else options.max_latency
        return replace(p, leave_out=leave_out, unsigned=unsigned, runtime=runtime, max_latency=limit)

    return [fits(p) if isinstance(p, Regrid) else p for p in passes]


def check_passes(passes: Sequence[Pass], runtime: Runtime) -> None:
    """Complain about passes that add what a target does not have.

    Raises:
        UserError: there is one.
    """
    if any(isinstance(p, Regrid) and p.bits16 for p in passes) and not rules_of(runtime).shorts:
        raise UserError(f"the target {runtime} takes no activations of 16 bits: leave --bits16")
    if not rules_of(runtime).floats:
        for p in passes:
            if not isinstance(p, (Regrid, Translate, Reconstruct)):
                raise UserError(
                    f"the pass '{p.name}' adds float operators, which the target {runtime} does not have: leave it out"
                )


def check_kept(original: onnx.ModelProto, new: onnx.ModelProto, runtime: Runtime) -> None:
    """Complain about a rewrite that breaks a rule of the target which the original keeps.

    Raises:
        PassError: it does; a plan that was made for another target can ask for that, nothing else should.
    """
    if runtime == "ort" or new is original:
        return
    broken = added(Graph(original), Graph(new), runtime)
    if broken:
        raise PassError(f"the rewrite breaks a rule of the target {runtime}: {'; '.join(broken)}")
