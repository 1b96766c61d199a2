"""Time of fitting compensation branches beside one calibration pass of both models, interleaved in one run.

    python tests/benchmarks/fit.py QUANTIZED.onnx FLOAT.onnx SAMPLES.npz [--samples 64] [--runs 3]

The pass is what any calibration costs at least: the quantized model (Q/DQ as written) and the float model run once
over the samples, batch by batch, and nothing is done with what they compute.  The fit is the whole `compensate` pass:
float activations, equations, choice of branches, comparison on held-out samples.  Quote the ratio of CPU times: seconds
depend on the machine, and wall time on what else it does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
from harness import interleaved, parser

from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.calibration.stream import BATCH
from onnx_ocs.passes.compensate import Compensate
from onnx_ocs.runtime.session import Session


def both(quantized: onnx.ModelProto, floats: onnx.ModelProto, samples: Path, limit: int) -> str:
    given = open_samples(str(samples), quantized)
    sessions = [Session(m, "enable_all", fusion=False) for m in (quantized, floats)]
    for feed in given.batches(BATCH, limit):
        for s in sessions:
            s.run(feed)
    return ""


def fit(quantized: onnx.ModelProto, floats: onnx.ModelProto, samples: Path, limit: int) -> str:
    model = onnx.ModelProto()
    model.CopyFrom(quantized)
    context = Context(open_samples(str(samples), model), limit, original=quantized, floats=floats)
    found = Compensate().run(model, context).compensations
    return f"{sum(e['status'] == 'applied' for e in found)} branches, {len(found)} blocks"


def main() -> None:
    a = parser(__doc__, runs=3).parse_args()
    quantized, floats = onnx.load(a.quantized), onnx.load(a.float_model)
    tasks: dict[str, Callable[[], str]] = {
        "both models, one pass": lambda: both(quantized, floats, a.samples, a.limit),
        "compensate": lambda: fit(quantized, floats, a.samples, a.limit),
    }
    medians, said = interleaved(tasks, a.runs)
    one = medians["both models, one pass"]
    print(f"{a.limit} samples, median of {a.runs} interleaved runs")
    print(f"{'':24} {'seconds':>9} {'ratio':>7} {'CPU s':>9} {'ratio':>7}")
    for name, (wall, cpu) in medians.items():
        print(f"{name:24} {wall:9.2f} {wall / one[0]:7.2f} {cpu:9.2f} {cpu / one[1]:7.2f}  {said[name]}")


if __name__ == "__main__":
    main()
