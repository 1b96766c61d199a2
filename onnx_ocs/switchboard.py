"""One onnxruntime session in which every activation quantizer has a switch, a step and bounds of its own.

Built once from the original model, fed with parameters for each question: what does this tensor's quantizer alone
cost at the output?  What would this plan give?  What if this region were left as it is?  No model is rewritten for it.

    a' = a                                                  switched off
    a' = s * clip(round(a / s), lo, hi)                     switched on; lo and hi per channel, in steps
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_ocs.errors import UserError, first_line
from onnx_ocs.graph import Array
from onnx_ocs.oracle import MAGIC, Editor
from onnx_ocs.quantizer import Quantizer
from onnx_ocs.region import Region
from onnx_ocs.staged import STAGES, Staged

__all__ = ["Setting", "Switchboard", "narrow"]

BYTE = 255  # steps of a byte


@dataclass(frozen=True, eq=False)
class Setting:
    """Parameters of one switched quantizer.

    Attributes:
        scale: the step, float64, shape () or (C,).
        low: smallest integer step (zero_point is 0 here), float64, shape () or (C,).
        high: largest.
    """

    scale: Array
    low: Array
    high: Array


def narrow(q: Quantizer) -> Setting:
    """The quantizer as it is in the file."""
    return Setting(
        q.scale, np.asarray(q.qmin - q.zero_point, np.float64), np.asarray(q.qmax - q.zero_point, np.float64)
    )


def _bounded(e: Editor, name: str, q: Quantizer, r: Region) -> gs.Tensor:
    """What a quantizer reads, with the bounds that hold whatever its step: the activation that was folded into it."""
    value = e.by_output[name].inputs[0]
    floor = bool(np.all(q.zero_point == q.qmin)) and r.bounds[0] < 0
    if not np.isfinite(r.ceiling):
        return e.node("Relu", [value], name + "_floor") if floor else value
    top = e.constant(np.asarray(r.ceiling, q.float_dtype))
    if not floor:
        return e.node("Min", [value, top], name + "_bound")
    if e.opset < 11:
        return e.node("Min", [e.node("Relu", [value], name + "_floor"), top], name + "_bound")
    return e.node("Clip", [value, e.constant(np.zeros((), q.float_dtype)), top], name + "_bound")


def _is_byte(q: Quantizer) -> bool:
    """Whether a quantizer uses all steps of a byte, on one grid."""
    return q.qmax - q.qmin == BYTE and q.scale.size == 1


def _bytes(e: Editor, name: str, x: gs.Tensor, scale: gs.Tensor, zero: gs.Tensor) -> list[gs.Node]:
    """A quantizer without copies: two operators that onnxruntime has fast kernels for."""
    integers, out = gs.Variable(f"{name}_integers"), gs.Variable(f"{name}_byte", np.float32, None)
    domain = None if e.opset >= 10 else "com.microsoft"
    return [
        gs.Node("QuantizeLinear", f"{name}_to_byte", {}, [x, scale, zero], [integers], domain=domain),
        gs.Node("DequantizeLinear", f"{name}_from_byte", {}, [integers, scale, zero], [out], domain=domain),
    ]


def _steps(e: Editor, name: str, x: gs.Tensor, scale: gs.Tensor, low: gs.Tensor, high: gs.Tensor) -> list[gs.Node]:
    """Any quantizer, of any number of steps in each channel."""
    t = [gs.Variable(f"{name}_t{i}") for i in range(5)]
    out = gs.Variable(f"{name}_stepped", np.float32, None)
    magic = e.constant(np.asarray(MAGIC, np.float32))
    rounding = (
        [gs.Node("Round", f"{name}_round", {}, [t[0]], [t[1]])]
        if e.opset >= 11
        else [
            gs.Node("Add", f"{name}_magic", {}, [t[0], magic], [t[4]]),
            gs.Node("Sub", f"{name}_round", {}, [t[4], magic], [t[1]]),
        ]
    )
    return [
        gs.Node("Div", f"{name}_div", {}, [x, scale], [t[0]]),
        *rounding,
        gs.Node("Min", f"{name}_min", {}, [t[1], high], [t[2]]),
        gs.Node("Max", f"{name}_max", {}, [t[2], low], [t[3]]),
        gs.Node("Mul", f"{name}_mul", {}, [t[3], scale], [out]),
    ]


class Switchboard:
    """The switched model, loaded.

    Attributes:
        regions: the quantized activations, in order.
        stages: how many sessions it is loaded in.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        regions: Sequence[Region],
        shapes: Mapping[str, tuple[object, ...]],
        stages: int = STAGES,
    ) -> None:
        """Build and load it.

        Args:
            model: the QDQ model; not changed.
            regions: its quantized activations.
            shapes: its tensors' shapes.
            stages: in how many sessions at most; the numbers are the same.

        Raises:
            UserError: onnxruntime does not load it.
        """
        self.regions = regions
        carried = {o for r in regions if r.walk is not None for n in r.walk.carried for o in n.output}
        e = Editor(model)
        samples = {t.name for t in e.graph.inputs}
        self._columns: dict[int, int] = {}
        self._switched: list[str] = []
        for k, r in enumerate(regions):
            q = r.quantizer
            if q is None:
                continue
            axis = r.walk.axis if r.walk is not None else q.axis
            shape = shapes.get(r.tensor)
            if axis is not None and axis >= 0:
                axis = axis - len(shape) if shape is not None else None
            self._columns[k] = 0 if axis is None else -1 - axis  # axes behind the channel's
            for name in r.outputs:
                value = _bounded(e, name, q, r)
                if name not in carried:  # a quantizer on the grid of one upstream changes nothing
                    value = self._switch(e, k, name, value, q)
                e.replace(name, q, value)
        try:
            parameters = [t.name for t in e.graph.inputs if t.name not in samples]
            self._model = Staged(e.export(), parameters, self._switched, stages)
            self.stages = len(self._model.stages)
        except Exception as error:
            raise UserError(f"onnxruntime cannot run the model switch by switch: {first_line(error)}") from None

    def _switch(self, e: Editor, k: int, name: str, value: gs.Tensor, q: Quantizer) -> gs.Tensor:
        known = {t.name: t for t in e.graph.inputs}

        def parameter(part: str, dtype: type[np.generic], shape: tuple[int, ...] | None = ()) -> gs.Tensor:
            label = f"ocs_{part}_{k}"
            if label not in known:
                known[label] = gs.Variable(label, dtype, shape)
                e.graph.inputs.append(known[label])
            return known[label]

        def branch(kind: str, nodes: list[gs.Node]) -> gs.Graph:
            return gs.Graph(nodes, outputs=nodes[-1].outputs, opset=e.opset, name=f"{name}_{kind}")

        on = parameter("on", np.bool_)
        scale, low, high = (parameter(part, np.float32, None) for part in ("scale", "low", "high"))
        x = e.floats(value, q, name + "_float")
        switched = branch("on", _steps(e, name, x, scale, low, high))
        if _is_byte(q):
            byte = branch("byte", _bytes(e, name, x, scale, parameter("zero", np.uint8)))
            out = gs.Variable(f"{name}_either", np.float32, None)
            inner = {"then_branch": byte, "else_branch": switched}
            switched = branch("how", [gs.Node("If", f"{name}_how", inner, [parameter("byte", np.bool_)], [out])])
        off = gs.Node("Identity", f"{name}_off", {}, [x], [gs.Variable(f"{name}_as_it_is", np.float32, None)])
        result = e.node("If", [on], name + "_switched", then_branch=switched, else_branch=branch("off", [off]))
        self._switched.append(result.name)
        if q.float_dtype == np.float32:
            return result
        return e.node("Cast", [result], name + "_half", to=int(onnx.helper.np_dtype_to_tensor_dtype(q.float_dtype)))

    def run(self, feed: Mapping[str, Array], settings: Mapping[int, Setting]) -> Array:
        """The model's first output, with the given quantizers on and all others off."""
        full: dict[str, Array] = {}
        for k, behind in self._columns.items():
            s = settings.get(k)
            scale, low, high = (np.ones(1), np.zeros(1), np.zeros(1)) if s is None else (s.scale, s.low, s.high)
            byte = all(np.all(v == v.flat[0]) for v in (scale, low, high)) and high.flat[0] - low.flat[0] == BYTE
            full |= {f"ocs_on_{k}": np.asarray(s is not None), f"ocs_byte_{k}": np.asarray(byte)}
            full[f"ocs_zero_{k}"] = np.asarray(-low.flat[0] if byte else 0, np.uint8)
            for part, values in (("scale", scale), ("low", low), ("high", high)):
                v = np.asarray(values.flat[:1] if byte else values, np.float32)
                full[f"ocs_{part}_{k}"] = v.reshape(-1, *[1] * behind) if v.size > 1 else v.reshape(1)
        return self._model.run(feed, full)
