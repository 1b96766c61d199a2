"""Top-1 accuracy and logits SQNR of digits models on the 450 held-out images.

    python models/evaluate.py MODEL.onnx [...]

Q/DQ nodes are computed as written (`session.disable_quant_qdq = 1`); the reference is `digits.fp32.onnx`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnxruntime as ort

HERE = Path(__file__).resolve().parent


def logits(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Run a model on all images."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"pixels": pixels})[0], np.float64)


def main() -> None:
    """Print a row for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    with np.load(HERE / "digits.test.npz", allow_pickle=False) as z:
        pixels, labels = z["pixels"], z["labels"]
    reference = logits(HERE / "digits.fp32.onnx", pixels)
    for path in parser.parse_args().models:
        out = logits(path, pixels)
        noise = float(((reference - out) ** 2).sum())
        sqnr = f"{10 * np.log10((reference**2).sum() / noise):6.2f} dB" if noise else "identical"
        top1 = 100 * np.mean(out.argmax(1) == labels)
        same = 100 * np.mean(out.argmax(1) == reference.argmax(1))
        print(f"{path.name:24} top-1 {top1:6.2f} %   same answer as float {same:6.2f} %   SQNR {sqnr}")


if __name__ == "__main__":
    main()
