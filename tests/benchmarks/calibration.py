"""Time of the calibration pass beside onnxruntime's own calibrators, on the same images, interleaved in one run.

    python tests/benchmarks/calibration.py QUANTIZED.onnx FLOAT.onnx SAMPLES.npz [--samples 64] [--runs 2]

Ours counts the statistics of every candidate tensor of the quantized model (read, run, histogram per channel);
onnxruntime's calibrators (MinMax, Percentile, Entropy, as `quantize_static` calls them) collect the float model's
tensors, one range each.  Each row says how many tensors.  Quote the ratios: seconds depend on the machine,
and on one that is busy the CPU's are the steadier.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from harness import interleaved, parser
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from onnx_ocs.calibration.collect import calibrate
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.model.files import fingerprint
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.regions.find import find_regions

METHODS = {
    "onnxruntime MinMax": CalibrationMethod.MinMax,
    "onnxruntime Entropy": CalibrationMethod.Entropy,
    "onnxruntime Percentile": CalibrationMethod.Percentile,
}


class Reader(CalibrationDataReader):
    """One image at a time, as onnxruntime's examples do."""

    def __init__(self, samples: Path, limit: int) -> None:
        with np.load(samples) as archive:
            arrays = {name: archive[name][:limit] for name in archive.files}
        self._feeds: Iterator[dict[str, np.ndarray]] = (
            {name: a[i : i + 1] for name, a in arrays.items()} for i in range(limit)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def ours(quantized: Path, samples: Path, limit: int) -> int:
    model = onnx.load(quantized)
    regions = find_regions(Graph(model), infer_shapes(model))
    found = calibrate(model, regions, Context(open_samples(str(samples), model), limit), fingerprint(model))
    assert found.samples == limit
    return len(found.histograms)


def theirs(model: Path, samples: Path, limit: int, method: CalibrationMethod) -> int:
    types = list(set(QLinearOpsRegistry) | set(QDQRegistry))
    with tempfile.TemporaryDirectory() as folder:
        calibrator = create_calibrator(
            model, types, augmented_model_path=str(Path(folder) / "augmented.onnx"), calibrate_method=method
        )
        calibrator.collect_data(Reader(samples, limit))
        return len(calibrator.compute_data().data)


def main() -> None:
    a = parser(__doc__, runs=2).parse_args()
    tasks: dict[str, Callable[[], int]] = {"onnx_ocs": lambda: ours(a.quantized, a.samples, a.limit)}
    for name, method in METHODS.items():
        tasks[name] = lambda m=method: theirs(a.float_model, a.samples, a.limit, m)
    medians, tensors = interleaved(tasks, a.runs)
    last = medians["onnxruntime Percentile"]
    print(f"{a.limit} images, median of {a.runs} interleaved runs")
    print(f"{'calibration':24} {'tensors':>8} {'seconds':>9} {'/ Percentile':>13} {'CPU s':>9} {'/ Percentile':>13}")
    for name, (wall, cpu) in medians.items():
        print(f"{name:24} {tensors[name]:8} {wall:9.2f} {wall / last[0]:13.3f} {cpu:9.2f} {cpu / last[1]:13.3f}")


if __name__ == "__main__":
    main()
