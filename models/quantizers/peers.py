"""Quantizers of other projects behind one signature: `(float_model, out, calib) -> None`.

    python models/quantizers/peers.py NAME FLOAT.onnx OUT.onnx CALIB.npz [WEIGHT-BITS ACTIVATION-BITS]

runs one of them in the interpreter that has it and prints its version; bits are for those that take them.  This file
needs nothing of onnx_ocs, since these packages want environments of their own; `compare.py` starts it there.  All of
them see the same calibration samples, quantize weights per channel, and are left at their defaults otherwise, but for
what a function says.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["PEERS", "Peer", "Reader", "ends"]

Feed = dict[str, Any]


class Peer(NamedTuple):
    """A quantizer of another project.

    Attributes:
        package: its name on PyPI.
        module: what it is imported as.
        quantize: the quantizer; raises whatever the package raises.
        low: whether it takes bits of weights and of activations behind the three paths; others make 8 bits.
    """

    package: str
    module: str
    quantize: Callable[..., None]
    low: bool = False


class Reader:
    """Calibration samples as onnxruntime's CalibrationDataReader and as an iterable, in batches; can be copied."""

    def __init__(self, calib: Path, batch: int = 1) -> None:
        with np.load(calib, allow_pickle=False) as archive:
            self.arrays = dict(archive)
        self.count = min(map(len, self.arrays.values()))
        self.batch = batch
        self.start = 0

    def __iter__(self) -> Iterator[Feed]:
        """All feeds."""
        for start in range(0, self.count, self.batch):
            yield self._feed(start)

    def _feed(self, start: int) -> Feed:
        return {name: array[start : start + self.batch] for name, array in self.arrays.items()}

    def get_next(self) -> Feed | None:
        """The next feed, None at the end."""
        start, self.start = self.start, self.start + self.batch
        return self._feed(start) if start < self.count else None

    def rewind(self) -> None:
        """Start again."""
        self.start = 0


def _nncf(float_model: Path, out: Path, calib: Path, fast: bool) -> None:
    import nncf
    import onnx

    reader = Reader(calib)
    quantized = nncf.quantize(
        onnx.load(float_model),
        nncf.Dataset(list(reader)),
        subset_size=reader.count,
        fast_bias_correction=fast,
    )
    onnx.save(quantized, out)


def nncf_fast(float_model: Path, out: Path, calib: Path) -> None:
    """NNCF as it comes: ranges from the means of the samples' extremes, fast bias correction."""
    _nncf(float_model, out, calib, fast=True)


def nncf_accurate(float_model: Path, out: Path, calib: Path) -> None:
    """NNCF with the slower bias correction, which follows the errors from layer to layer."""
    _nncf(float_model, out, calib, fast=False)


def nncf_controlled(float_model: Path, out: Path, calib: Path) -> None:
    """NNCF with accuracy control: layers go back to float until answers differ on one sample of a hundred at most.

    An answer is the largest value of the first output, on the calibration samples; the right one is the float model's.
    """
    import nncf
    import onnx
    import onnxruntime

    def answers(model: Any, feeds: Iterable[Feed]) -> list[int]:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return [int(np.argmax(session.run(None, f)[0])) for f in feeds]

    def agreement(model: Any, items: Iterable[tuple[Feed, int]]) -> float:
        some = list(items)
        return float(np.mean(np.equal(answers(model, (f for f, _ in some)), [label for _, label in some])))

    model, reader = onnx.load(float_model), Reader(calib)
    items = list(zip(reader, answers(model, reader), strict=True))
    dataset = nncf.Dataset(items, lambda item: item[0])
    quantized = nncf.quantize_with_accuracy_control(
        model, dataset, dataset, agreement, max_drop=0.01, subset_size=reader.count
    )
    onnx.save(quantized, out)


def _aimet(
    float_model: Path,
    out: Path,
    calib: Path,
    weights: int,
    activations: int,
    *mending: str,
    scheme: str,
    iterations: int = 500,
) -> None:
    """AIMET; `mending`: "equalize", "adaround" (so many iterations a layer), "seqmse", in this order."""
    import aimet_onnx
    import onnx
    from aimet_onnx.cross_layer_equalization import equalize_model

    feeds = list(Reader(calib, 16))
    model = onnx.load(float_model)
    if "equalize" in mending:
        equalize_model(model)
    sim = aimet_onnx.QuantizationSimModel(
        model,
        param_type=f"int{weights}",
        activation_type=f"int{activations}",
        quant_scheme=scheme,
        config_file="htp_v81",
    )
    for name in ends(onnx.load(float_model), sim.qc_quantize_op_dict):
        sim.qc_quantize_op_dict[name].set_bitwidth(8)
    if "seqmse" in mending:
        aimet_onnx.apply_seq_mse(sim, feeds)
    if "adaround" in mending:
        aimet_onnx.apply_adaround(sim, feeds, num_iterations=iterations)
    sim.compute_encodings(feeds)
    onnx.save(sim.to_onnx_qdq(prequantize_constants=True, export_int32_bias=True), out)


def ends(model: Any, quantizers: Mapping[str, Any]) -> list[str]:
    """What has 8 bits at any bits: outputs, and weight and input of the first and the last layer, as in `lowbit`.

    Args:
        model: the float network.
        quantizers: AIMET's by the name of the tensor, of which some are not `enabled`.
    """
    made = {o: n for n in model.graph.node for o in n.output}
    layers = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    names = [o.name for o in model.graph.output]
    for layer in (layers[0], layers[-1]):
        data, weight = layer.input[:2]
        while data in made and not (data in quantizers and quantizers[data].enabled):
            data = made[data].input[0]  # a Reshape, which moves what is quantized in front of it
        names += [data, weight]
    return [n for n in names if n in quantizers]


def aimet_minmax(float_model: Path, out: Path, calib: Path, weights: int = 8, activations: int = 8) -> None:
    """AIMET with min-max ranges."""
    _aimet(float_model, out, calib, weights, activations, scheme="min_max")


def aimet_sqnr(float_model: Path, out: Path, calib: Path, weights: int = 8, activations: int = 8) -> None:
    """AIMET with ranges by least squared error."""
    _aimet(float_model, out, calib, weights, activations, scheme="tf_enhanced")


def aimet_adaround(float_model: Path, out: Path, calib: Path, weights: int = 8, activations: int = 8) -> None:
    """AIMET with ranges by least squared error, and AdaRound."""
    _aimet(float_model, out, calib, weights, activations, "adaround", scheme="tf_enhanced")


def aimet_adaround_long(float_model: Path, out: Path, calib: Path, weights: int = 8, activations: int = 8) -> None:
    """The same with AIMET's own number of iterations."""
    _aimet(float_model, out, calib, weights, activations, "adaround", scheme="tf_enhanced", iterations=10_000)


def aimet_seqmse(float_model: Path, out: Path, calib: Path, weights: int = 8, activations: int = 8) -> None:
    """AIMET with ranges of weights by sequential MSE, others min-max: it refuses to start from anything else."""
    _aimet(float_model, out, calib, weights, activations, "seqmse", scheme="min_max")


def aimet_mended(float_model: Path, out: Path, calib: Path, weights: int = 8, activations: int = 8) -> None:
    """AIMET with cross-layer equalization, ranges by least squared error, AdaRound."""
    _aimet(float_model, out, calib, weights, activations, "equalize", "adaround", scheme="tf_enhanced")


def _quark(float_model: Path, out: Path, calib: Path, *algorithms: str) -> None:
    from quark.onnx import ModelQuantizer
    from quark.onnx.quantization.config import algorithm
    from quark.onnx.quantization.config.config import QConfig
    from quark.onnx.quantization.config.spec import Int8Spec, QLayerConfig, QuantGranularity, UInt8Spec

    config = QConfig(
        QLayerConfig(activation=UInt8Spec(), weight=Int8Spec(quant_granularity=QuantGranularity.Channel)),
        algo_config=[getattr(algorithm, f"{name}Config")() for name in algorithms],
    )
    ModelQuantizer(config).quantize_model(float_model, out, Reader(calib))


def quark(float_model: Path, out: Path, calib: Path) -> None:
    """AMD Quark with its percentile calibrator."""
    _quark(float_model, out, calib)


def quark_cle(float_model: Path, out: Path, calib: Path) -> None:
    """AMD Quark with cross-layer equalization and bias correction."""
    _quark(float_model, out, calib, "CLE", "BiasCorrection")


def quark_adaround(float_model: Path, out: Path, calib: Path) -> None:
    """AMD Quark with AdaRound."""
    _quark(float_model, out, calib, "AdaRound")


def quark_adaquant(float_model: Path, out: Path, calib: Path) -> None:
    """AMD Quark with AdaQuant."""
    _quark(float_model, out, calib, "AdaQuant")


def quark_gptq(float_model: Path, out: Path, calib: Path) -> None:
    """AMD Quark with GPTQ, which is for the weights of MatMul."""
    _quark(float_model, out, calib, "GPTQ")


def _neural_compressor(float_model: Path, out: Path, calib: Path, **recipes: Any) -> None:
    import onnx
    from neural_compressor import PostTrainingQuantConfig, quantization

    reader = Reader(calib)
    loader = type("Loader", (), {"batch_size": 1, "__iter__": lambda _self: ((feed, None) for feed in reader)})()
    config = PostTrainingQuantConfig(
        quant_format="QDQ", calibration_sampling_size=[reader.count], quant_level=1, recipes=recipes
    )
    model = quantization.fit(onnx.load(float_model), config, calib_dataloader=loader)
    onnx.save(model.model, out)


def neural_compressor(float_model: Path, out: Path, calib: Path) -> None:
    """Intel Neural Compressor as it comes: min-max."""
    _neural_compressor(float_model, out, calib)


def onnxruntime_smooth(float_model: Path, out: Path, calib: Path) -> None:
    """The SmoothQuant option of onnxruntime, which needs neural-compressor, and min-max."""
    from onnxruntime import quantization as ortq

    class Source(Reader, ortq.CalibrationDataReader):
        """What onnxruntime checks for."""

    ortq.quantize_static(
        str(float_model),  # neural-compressor takes no Path
        str(out),
        Source(calib),
        quant_format=ortq.QuantFormat.QDQ,
        per_channel=True,
        activation_type=ortq.QuantType.QUInt8,
        weight_type=ortq.QuantType.QInt8,
        extra_options={"SmoothQuant": True},
    )


PEERS = {
    "NNCF, fast bias correction": Peer("nncf", "nncf", nncf_fast),
    "NNCF, bias correction": Peer("nncf", "nncf", nncf_accurate),
    "NNCF, accuracy control": Peer("nncf", "nncf", nncf_controlled),
    "AIMET, min-max": Peer("aimet-onnx", "aimet_onnx", aimet_minmax, low=True),
    "AIMET, least squares": Peer("aimet-onnx", "aimet_onnx", aimet_sqnr, low=True),
    "AIMET, equalization, AdaRound": Peer("aimet-onnx", "aimet_onnx", aimet_mended, low=True),
    "AIMET, AdaRound": Peer("aimet-onnx", "aimet_onnx", aimet_adaround, low=True),
    "AIMET, long AdaRound": Peer("aimet-onnx", "aimet_onnx", aimet_adaround_long, low=True),
    "AIMET, sequential MSE": Peer("aimet-onnx", "aimet_onnx", aimet_seqmse, low=True),
    "Quark, percentile": Peer("amd-quark", "quark", quark),
    "Quark, equalization and bias correction": Peer("amd-quark", "quark", quark_cle),
    "Quark, AdaRound": Peer("amd-quark", "quark", quark_adaround),
    "Quark, AdaQuant": Peer("amd-quark", "quark", quark_adaquant),
    "Quark, GPTQ": Peer("amd-quark", "quark", quark_gptq),
    "Neural Compressor, min-max": Peer("neural-compressor", "neural_compressor", neural_compressor),
    "onnxruntime, SmoothQuant": Peer("onnxruntime", "neural_compressor", onnxruntime_smooth),
}


def main() -> int:
    """Command line."""
    logging.basicConfig(level=logging.ERROR)
    name, float_model, out, calib, *bits = sys.argv[1:]
    peer = PEERS[name]
    peer.quantize(Path(float_model), Path(out), Path(calib), *map(int, bits))
    print(f"\n{version(peer.package)}")  # a line of its own, behind what the package prints
    return 0


if __name__ == "__main__":
    sys.exit(main())
