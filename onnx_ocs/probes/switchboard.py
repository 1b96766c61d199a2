"""One onnxruntime session in which every activation quantizer has a switch, a step and bounds of its own.

Built once from the original model, fed with parameters for each question: what does this tensor's quantizer alone
cost at the output?  What would this plan give?  What if this region were left as it is?  No model is rewritten for it.

    a' = a                                                  switched off
    a' = s * clip(round(a / s), lo, hi)                     switched on; lo and hi per channel, in steps

The second line is a QuantizeLinear and a DequantizeLinear wherever that can be: onnxruntime has fast kernels for them.
They saturate at the ends of their integers' type, 16 bits being enough for any copies of a byte: a zero_point for each
channel puts the upper end where hi is, and what lies below lo is lifted first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_ocs.errors import UserError, first_line
from onnx_ocs.model.graph import tensor_outputs
from onnx_ocs.model.nodes import Array
from onnx_ocs.model.order import mentioned, topological
from onnx_ocs.probes.editor import MAGIC, Editor
from onnx_ocs.probes.stages import STAGES, Stages
from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.regions.region import Quantized, Region
from onnx_ocs.runtime.session import RUN_ERRORS

__all__ = ["Setting", "Switchboard", "narrow"]

BYTE = 255  # steps of a byte
MANY = 500_000  # quantized values of a sample from which threads of their own for few samples pay
MADE = 4  # settings of each quantizer whose parameters are kept
SHORT = 65535  # of 16 bits; a plan with more, at 8 bits or less, is measured with so many


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

    @cached_property
    def key(self) -> bytes:
        """Known again by value."""
        parts = self.scale, self.low, self.high
        return b"".join(b"%d:" % v.size + v.tobytes() for v in parts)


def narrow(q: Quantizer) -> Setting:
    """The quantizer as it is in the file."""
    return Setting(
        q.scale, np.asarray(q.qmin - q.zero_point, np.float64), np.asarray(q.qmax - q.zero_point, np.float64)
    )


def _bounded(e: Editor, name: str, q: Quantizer, r: Quantized) -> gs.Tensor:
    """What a quantizer reads, with the bounds that hold whatever its step: the activation that was folded into it."""
    value = e.by_output[name].inputs[0]
    floor = q.rectifies and r.bounds[0] < 0
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


def _saturating(
    e: Editor, name: str, x: gs.Tensor, scale: gs.Tensor, zero: gs.Tensor, axis: int | None = None
) -> list[gs.Node]:
    """A quantizer that the type of its zero_point bounds; scale and zero_point may differ along an axis."""
    integers, out = gs.Variable(f"{name}_integers"), gs.Variable(f"{name}_quantized", np.float32, None)
    domain = None if e.opset >= 10 and axis is None else "com.microsoft"
    along = {} if axis is None else {"axis": axis}
    return [
        gs.Node("QuantizeLinear", f"{name}_quantize", {**along}, [x, scale, zero], [integers], domain=domain),
        gs.Node("DequantizeLinear", f"{name}_dequantize", {**along}, [integers, scale, zero], [out], domain=domain),
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
        outputs: the graph outputs that it gives.
        reached: those of them that a quantizer can change.
        stages: how many sessions it is loaded in.
        sliced: whether the samples of a feed run a few at a time.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        regions: Sequence[Quantized],
        shapes: Mapping[str, tuple[object, ...]],
        stages: int = STAGES,
        example: Mapping[str, Array] | None = None,
        outputs: Sequence[str] | None = None,
        only: Collection[int] | None = None,
        sliced: bool = False,
        threads: int | None = None,
    ) -> None:
        """Build and load it.

        Args:
            model: the QDQ model; not changed.
            regions: its quantized activations.
            shapes: its tensors' shapes.
            stages: in how many sessions at most; the numbers are the same.
            example: a feed; its samples may then run a few at a time, where that pays and gives the same numbers.
            outputs: graph outputs that are asked for; default: all that are tensors.
            only: the regions, by index, that have a switch, those on the grid of another one included; all others are
                off.  Default: all but those.
            sliced: whether samples run a few at a time, where that was tried before: `sliced` of such a board.
            threads: how many may be used; None: as many as help.

        Raises:
            UserError: onnxruntime does not load it.
        """
        self.regions = regions
        self.outputs = tensor_outputs(model) if outputs is None else list(outputs)
        self._columns: dict[int, int] = {}
        self._switched: list[str] = []
        self._asked: Mapping[int, Setting] | None = None
        self._made: dict[tuple[int, bytes], dict[str, Array]] = {}  # parameters of settings: most come again
        e = Editor(model)
        values = self._switch_all(e, shapes, only)
        try:
            off = {name: v for k, n in self._columns.items() for name, v in _parameters(k, None, n).items()}
            self._rest = {t.name: off[t.name] for t in e.graph.inputs if t.name in off}
            switched, example = e.export(), example if values >= MANY else None
            self._model = Stages(
                switched, self._rest, self._switched, stages, example, self.outputs, sliced, threads
            )
            self.stages, self.sliced = len(self._model.stages), self._model.sliced
        except RUN_ERRORS as error:
            raise UserError(f"onnxruntime cannot run the model switch by switch: {first_line(error)}") from None
        self.reached = _reached(switched, self._rest, self.outputs)

    def _switch_all(self, e: Editor, shapes: Mapping[str, tuple[object, ...]], only: Collection[int] | None) -> int:
        """Put a switch in the place of every quantizer; returns the quantized values of a sample."""
        regions, values = self.regions, 0
        carried = {o for r in regions if isinstance(r, Region) for n in r.walk.carried for o in n.output}
        for k, r in enumerate(regions):
            q = r.quantizer
            if q is None:
                continue
            axis = r.walk.axis if isinstance(r, Region) else q.axis
            shape = shapes.get(r.tensor)
            if axis is not None and axis >= 0:
                axis = axis - len(shape) if shape is not None else None
            values += prod(d for d in shape or () if isinstance(d, int))
            self._columns[k] = 0 if axis is None else -1 - axis  # axes behind the channel's
            for name in r.outputs:
                value = _bounded(e, name, q, r)
                # a quantizer on the grid of one upstream changes nothing behind it
                if k in only if only is not None else name not in carried:
                    value = self._switch(e, k, name, value, q)
                e.replace(name, q, value)
        return values

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
        x = e.floats(value, q, name + "_float")
        if q.qmax - q.qmin > BYTE:
            parts = [parameter(part, np.float32, None) for part in ("step", "low", "high")]
            switched = branch("on", _steps(e, name, x, *parts))
        else:
            scale, zero = parameter("scale", np.float32, None), parameter("zero", np.uint16, None)
            lifted, nodes = x, []
            if not q.rectifies:  # others have no values below zero
                lifted = gs.Variable(f"{name}_lifted", np.float32, None)
                nodes = [gs.Node("Max", f"{name}_lift", {}, [x, parameter("floor", np.float32, None)], [lifted])]
            switched = branch("on", nodes + _saturating(e, name, lifted, scale, zero, -1 - self._columns[k]))
        if _is_byte(q):
            byte = branch("byte", _saturating(e, f"{name}_byte", x, scale, parameter("byte_zero", np.uint8)))
            out = gs.Variable(f"{name}_either", np.float32, None)
            inner = {"then_branch": byte, "else_branch": switched}
            switched = branch("how", [gs.Node("If", f"{name}_how", inner, [parameter("byte", np.bool_)], [out])])
        off = gs.Node("Identity", f"{name}_off", {}, [x], [gs.Variable(f"{name}_as_it_is", np.float32, None)])
        result = e.node("If", [on], name + "_switched", then_branch=switched, else_branch=branch("off", [off]))
        self._switched.append(result.name)
        if q.float_dtype == np.float32:
            return result
        return e.node("Cast", [result], name + "_half", to=int(onnx.helper.np_dtype_to_tensor_dtype(q.float_dtype)))

    def run(self, feed: Mapping[str, Array], settings: Mapping[int, Setting]) -> dict[str, Array]:
        """The model's outputs, with the given quantizers on and all others off.

        Both are known again by identity: they must not change.
        """
        if self._asked is not settings:  # once for all samples
            self._asked, self._parameters = settings, self._at(settings)
        return self._model.run(feed, self._parameters)

    def forget(self) -> None:
        """Give back what is kept of earlier questions: no answer depends on it."""
        self._model.forget()

    def _at(self, settings: Mapping[int, Setting]) -> dict[str, Array]:
        """The parameters that are not at rest."""
        if len(self._made) > MADE * (1 + len(self._columns)):
            self._made.clear()
        found: dict[str, Array] = {}
        for k, s in settings.items():
            if k not in self._columns:
                continue
            key = k, s.key
            if key not in self._made:
                parameters = _parameters(k, s, self._columns[k])
                self._made[key] = {n: v for n, v in parameters.items() if n in self._rest}
            found |= self._made[key]
        return found


def _reached(model: onnx.ModelProto, parameters: Collection[str], outputs: Sequence[str]) -> list[str]:
    """The outputs that depend on a switch."""
    moved = set(parameters)
    for n in topological(model.graph.node):
        if not moved.isdisjoint(mentioned(n)):
            moved.update(n.output)
    return [o for o in outputs if o in moved]


def _parameters(k: int, s: Setting | None, behind: int) -> dict[str, Array]:
    """Parameters of one switch, in front of `behind` axes; None: it is off."""
    scale, low, high = (np.ones(1), np.zeros(1), np.zeros(1)) if s is None else (s.scale, s.low, s.high)
    if all(np.all(v == v.flat[0]) for v in (scale, low, high)):
        scale, low, high = (v.flat[:1] for v in (scale, low, high))
    byte = high.size == 1 and high[0] - low[0] == BYTE
    along, zero = np.broadcast_arrays(scale, np.maximum(SHORT - high, 0))
    columns = {"low": low, "high": high, "step": scale, "floor": low * scale}
    return {f"ocs_{name}_{k}": _column(v, behind) for name, v in columns.items()} | {
        f"ocs_on_{k}": np.asarray(s is not None),
        f"ocs_scale_{k}": along.astype(np.float32),
        f"ocs_zero_{k}": zero.astype(np.uint16),
        f"ocs_byte_{k}": np.asarray(byte),
        f"ocs_byte_zero_{k}": np.asarray(-low[0] if byte else 0, np.uint8),
    }


def _column(v: Array, behind: int) -> Array:
    """One value, or one for each channel in front of other axes."""
    return v.astype(np.float32).reshape(-1, *[1] * behind) if v.size > 1 else v.astype(np.float32).reshape(1)
