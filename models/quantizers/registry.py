"""Quantizers by name, all with one signature: float model, output, calibration samples.

ort-minmax, ort-entropy, ort-percentile    onnxruntime's quantize_static: QDQ, 8-bit activations (uint8) calibrated
                                           that way (percentile: 99.9), int8 weights with a scale per channel
lowbit                                     models/quantizers/lowbit.py: QCDQ, 2 to 8 bits, scales of least squared error
reconstructed                              the same, then refined with gradients (onnx_ocs/reconstruction/train.py)
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.errors import UserError
from onnx_ocs.reconstruction.train import refine

__all__ = ["QUANTIZERS", "Quantizer", "find_quantizer", "label", "quantize_static", "read_samples", "refined"]

Array = npt.NDArray[Any]
Quantizer = Callable[[Path, Path, Path], None]
BATCH = 8  # most calibration samples a run
STEPS = 300  # of a refinement
PERCENTILE = 99.9
ORT = {"ort-minmax": "MinMax", "ort-entropy": "Entropy", "ort-percentile": "Percentile"}
QUANTIZERS = (*ORT, "lowbit", "reconstructed")


def find_quantizer(name: str, weight_bits: int = 8, act_bits: int = 8) -> Quantizer:
    """The quantizer of that name, `(float_model, out, calib) -> None`.

    Args:
        name: one of `QUANTIZERS`.
        weight_bits: 2 to 8; onnxruntime's take 8 only.
        act_bits: the same for activations.

    Raises:
        UserError: there is none, or it does not take these bits.
    """
    if name not in QUANTIZERS:
        raise UserError(f"there is no quantizer {name!r}; choose from {', '.join(QUANTIZERS)}")
    for option, bits in (("--weight-bits", weight_bits), ("--act-bits", act_bits)):
        if not 2 <= bits <= 8:
            raise UserError(f"{option} {bits}: choose 2 to 8")
        if name in ORT and bits != 8:
            raise UserError(f"{option} {bits}: {name} makes 8 bits only; choose lowbit")
    if name == "reconstructed" and find_spec("torch") is None:
        raise UserError("the quantizer 'reconstructed' trains with torch: pip install 'onnx-ocs[refine]'")

    def quantize(float_model: Path, out: Path, calib: Path) -> None:
        """Quantize a file."""
        model = onnx.load(float_model)
        samples = read_samples(model, calib)
        try:
            if name in ORT:
                extra = {"CalibPercentile": PERCENTILE} if ORT[name] == "Percentile" else {}
                quantize_static(float_model, out, samples, ORT[name], extra=extra)
            else:
                from models.quantizers import lowbit

                low = lowbit.quantize(model, samples, act_bits, weight_bits)
                if name == "reconstructed":
                    low = refined(low, float_model, samples)
                out.write_bytes(low.SerializeToString(deterministic=True))
        except ValueError as e:
            raise UserError(f"{name} does not quantize {float_model.name}: {e}") from None

    return quantize


def refined(model: onnx.ModelProto, float_model: Path, samples: dict[str, Array]) -> onnx.ModelProto:
    """A low-bit model, refined with gradients: the published figures at 2 bits all have something like it."""
    return refine(model, open_samples(samples, model), onnx.load(float_model), steps=STEPS)[0]


def label(name: str, weight_bits: int = 8, act_bits: int = 8) -> str:
    """What stands in a quantized file's name: `w8a4`, or the name of onnxruntime's calibrator."""
    bits = f"w{weight_bits}a{act_bits}"
    return name if name in ORT else bits if name == "lowbit" else f"{bits}.{name}"


def read_samples(model: onnx.ModelProto, archive: Path) -> dict[str, Array]:
    """The arrays of an `.npz` that are inputs of the model.

    Raises:
        UserError: an input has none.
    """
    stored = {t.name for t in model.graph.initializer}
    names = [i.name for i in model.graph.input if i.name not in stored]
    with np.load(archive, allow_pickle=False) as z:
        if missing := [n for n in names if n not in z]:
            raise UserError(f"{archive.name} has no samples for the model's input {', '.join(missing)}")
        return {n: z[n] for n in names}


class _Batches:
    """Samples in batches, as onnxruntime's calibrators take them."""

    def __init__(self, samples: dict[str, Array]) -> None:
        count = len(next(iter(samples.values())))
        step = next(k for k in range(BATCH, 0, -1) if count % k == 0)  # the calibrators want equal batches
        parts = ({k: v[i : i + step] for k, v in samples.items()} for i in range(0, count, step))
        self.feeds: Iterator[dict[str, Array]] = parts

    def get_next(self) -> dict[str, Array] | None:
        """The next batch, None at the end."""
        return next(self.feeds, None)


def quantize_static(
    float_model: Path,
    out: Path,
    samples: dict[str, Array],
    method: str = "MinMax",
    activations: str = "QUInt8",
    extra: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    """Quantize a file with onnxruntime: QDQ, weights int8 per channel.

    Args:
        float_model: the model.
        out: where the quantized one goes.
        samples: an array for each input.
        method: name of the calibrator.
        activations: their type, by onnxruntime's name.
        extra: its extra options.
        options: further ones.
    """
    from onnxruntime import quantization as ortq  # slow to import

    with _quietly():
        ortq.quantize_static(
            float_model,
            out,
            _Batches(samples),
            quant_format=ortq.QuantFormat.QDQ,
            per_channel=True,
            activation_type=ortq.QuantType[activations],
            weight_type=ortq.QuantType.QInt8,
            calibrate_method=getattr(ortq.CalibrationMethod, method),
            extra_options=extra or {},
            **options,
        )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the advice that onnxruntime's quantizer logs about every model, and the steps that it prints."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(previous)
