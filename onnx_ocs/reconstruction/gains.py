"""What gains a file declares mean for its layers (`onnx_ocs.records.grids`): rows and columns of the float weights.

W_0 = 2^out[o] W_f / 2^into[c]        and the target is 2^out[o] times what the float model has
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_ocs.model.nodes import Array
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.records.grids import new_gains, output_octaves

__all__ = ["Octaves", "octaves_of"]


@dataclass(frozen=True, eq=False)
class Octaves:
    """Gains of the channels before and behind layers, in octaves, by what a layer's node writes.

    Attributes:
        into: of a layer's inputs.
        out: of its outputs.
    """

    into: Mapping[str, Array]
    out: Mapping[str, Array]

    def columns(self, layer: LinearMap, inputs: int) -> Array | float:
        """What each weight was divided by, (G or 1, 1, inputs): of the layer without copies."""
        found = self.into.get(layer.node.output[0])
        if found is None:
            return 1.0
        factors = 2.0**found
        if layer.dense:  # kernel position by kernel position, all channels of one after the other
            return np.asarray(factors[np.arange(inputs) % factors.size][None, None])
        return np.asarray(factors[layer.columns[:, :inputs] % factors.size][:, None])

    def rows(self, layer: LinearMap) -> Array | None:
        """What the outputs were multiplied by, (channels of the float model's tensor,); None without gains."""
        found = self.out.get(layer.node.output[0])
        return None if found is None else 2.0**found


def octaves_of(model: onnx.ModelProto | None) -> Octaves:
    """The gains that a model declares."""
    into: dict[str, Array] = {}
    nothing = onnx.ModelProto()
    if model is None:
        return Octaves({}, {})
    for e in new_gains(nothing, model):
        for t in e.layers:
            into[t] = into.get(t, 0) + np.asarray(e.octaves, np.int64)
    return Octaves(into, {t: np.asarray(o, np.int64) for t, o in output_octaves(nothing, model).items()})
