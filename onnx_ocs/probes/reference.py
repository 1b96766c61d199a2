"""The reference where no float model is given: the QDQ model without its activation quantizers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from onnx_ocs.probes.editor import Editor
from onnx_ocs.regions.region import Quantized

__all__ = ["reference"]


def reference(model: onnx.ModelProto, regions: Sequence[Quantized]) -> onnx.ModelProto:
    """The model without activation quantizers: the stand-in for the float model.

    A Q with zero_point == qmin keeps its lower saturation (it may be a folded ReLU), one with a folded Clip its bound.
    """
    e = Editor(model)
    for region in regions:
        q = region.quantizer
        if q is None:
            continue
        for name in region.outputs:
            value = e.by_output[name].inputs[0]
            if q.rectifies and region.bounds[0] < 0:
                value = e.node("Relu", [value], name + "_floor")
            if np.isfinite(region.ceiling):
                bound = e.constant(np.asarray(region.ceiling, q.float_dtype))
                value = e.node("Min", [value, bound], name + "_bound")
            e.replace(name, q, value)
    return e.export()
