"""Where a few values are so large that a quantizer with one step for a tensor has none left for the others.

In decoders one or two channels of the residual stream hold values thousands of times the rest, at one token (massive
activations, arXiv 2402.17762).  Norms hide them from most layers; the layer that writes them does see large inputs.

python -m models.tables.massive QUANTIZED.onnx FLOAT.onnx CALIB.npz PLAN.json TENSOR:DIVISOR ...

writes a plan for `onnx_ocs rewrite --plan`: the step of each named tensor divided, and as many copies of its channels
as their values on the samples need.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from models.commandline import command_line, exit_code
from onnx_ocs.errors import UserError
from onnx_ocs.planning.plan import MOST, Plan, PlannedRegion
from onnx_ocs.runtime.session import Session, as_written

__all__ = ["Peak", "divided", "main", "peaks"]

Array = npt.NDArray[Any]
USUAL = 99.9  # per cent of the values
LEVELS = 255  # steps of an 8-bit quantizer


@dataclass(frozen=True)
class Peak:
    """The largest value of a tensor [N, tokens, channels] against the others.

    Attributes:
        tensor: its name.
        largest: the largest absolute value.
        usual: what 99.9 % of the absolute values do not exceed.
        channel, token: where the largest is.
        levels: how many steps of an 8-bit quantizer from the smallest to the largest value are left for `usual`.
    """

    tensor: str
    largest: float
    usual: float
    channel: int
    token: int
    levels: float

    @property
    def copies(self) -> int:
        """How many copies of its channel bring the range down to what is usual."""
        return int(np.ceil(self.largest / self.usual)) - 1


def peaks(model: onnx.ModelProto, tensors: Sequence[str], feed: dict[str, Array]) -> list[Peak]:
    """The peaks of tensors on one batch, the one with the fewest levels left first.

    Args:
        model: the float model; not changed.
        tensors: names of float tensors [N, tokens, channels] in it.
        feed: an array for each input.
    """
    found = [_peak(t, v) for t, v in _session(model, tensors).run(feed).items()]
    return sorted(found, key=lambda p: p.levels)


def _session(model: onnx.ModelProto, tensors: Sequence[str]) -> Session:
    """The model with these tensors as its outputs."""
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    del graph.output[:]
    graph.output.extend(helper.make_empty_tensor_value_info(t) for t in tensors)
    return as_written(helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version), 1)


def _peak(tensor: str, value: Array) -> Peak:
    size = np.abs(value)
    usual = float(np.percentile(size, USUAL))
    _, token, channel = np.unravel_index(int(size.argmax()), size.shape)
    spread = float(max(value.max(), 0) - min(value.min(), 0))
    return Peak(tensor, float(size.max()), usual, int(channel), int(token), LEVELS * usual / spread)


def divided(
    quantized: onnx.ModelProto, floats: onnx.ModelProto, samples: Mapping[str, Array], divisors: Mapping[str, float]
) -> Plan:
    """A plan that divides steps, and gives the channels the copies that their values need.

    Args:
        quantized: the QDQ model; one QuantizeLinear with one step reads each tensor.
        floats: the float model, with the same names.
        samples: an array for each input.
        divisors: of the steps, by tensor.

    Raises:
        UserError: no quantizer with a constant step reads a tensor.
    """
    stored = {t.name: t for t in quantized.graph.initializer}
    nodes = {n.input[0]: n for n in quantized.graph.node if n.op_type == "QuantizeLinear" and n.input[1] in stored}
    if unknown := [t for t in divisors if t not in nodes]:
        raise UserError(f"no quantizer with a constant step reads '{unknown[0]}'")
    session = _session(floats, list(divisors))
    count = len(next(iter(samples.values())))
    runs = [session.run({k: v[i : i + 1] for k, v in samples.items()}) for i in range(count)]
    regions = []
    for t, divisor in divisors.items():
        scale, zero = (numpy_helper.to_array(stored[i]) for i in nodes[t].input[1:])
        step, ends = scale.astype(np.float64) / divisor, np.iinfo(zero.dtype)
        value = np.concatenate([r[t] for r in runs]).reshape(-1, runs[0][t].shape[-1])
        up = _needed(value.max(0), float(step) * (ends.max - int(zero)))
        low = _needed(-value.min(0), float(step) * (int(zero) - ends.min))
        regions.append(PlannedRegion(t, (nodes[t].output[0],), step, up, low, "late"))
    return Plan("", tuple(regions))


def _needed(largest: Array, span: float) -> Array:
    """How many copies bring each channel's largest value into a range."""
    if span <= 0:
        return np.zeros(len(largest), np.int64)
    return np.clip(np.ceil(largest / span - 1e-6).astype(np.int64) - 1, 0, MOST)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = command_line("models.tables.massive", __doc__)
    for name in ("quantized", "floats", "calib", "plan"):
        parser.add_argument(name, type=Path)
    parser.add_argument("divisors", nargs="+", metavar="TENSOR:DIVISOR")
    args = parser.parse_args(argv)
    return exit_code(lambda: _write(args))


def _write(args: argparse.Namespace) -> None:
    wanted = dict(d.rsplit(":", 1) for d in args.divisors)
    with np.load(args.calib, allow_pickle=False) as archive:
        samples = dict(archive)
    models = (onnx.load(args.quantized), onnx.load(args.floats))
    plan = divided(*models, samples, {t: float(d) for t, d in wanted.items()})
    args.plan.write_text(plan.to_json(), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
