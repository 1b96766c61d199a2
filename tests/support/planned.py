"""Plans of small models, made once, and what became of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import zoo

from onnx_ocs import api
from onnx_ocs.passes.translate import Translate
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.plan import Plan

ROOT = Path(__file__).resolve().parents[2]


DIGITS = ROOT / "models" / "digits.w8a2.onnx"


CALIB = ROOT / "models" / "digits.calib.npz"


FLOAT8 = ROOT / "tests" / "data" / "ort_cnn_l17_f8.onnx"


FEW = ("--samples", 48, "--copies", 2)  # enough to plan by, and quick


Array = np.ndarray[Any, Any]


Model = onnx.ModelProto


@cache
def fed(name: str) -> tuple[Model, dict[str, Array]]:
    """A model of the zoo, and twelve samples for it."""
    model, feed = zoo.build(name)
    if name == "fixed_batch":
        return model, feed
    rng = np.random.default_rng(7)
    return model, {k: rng.standard_normal((12, *v.shape[1:])).astype(v.dtype) for k, v in feed.items()}


def saved(folder: Path, name: str) -> str:
    path = folder / f"{name}.npz"
    if not path.exists():
        np.savez(path, **fed(name)[1])
    return str(path)


def source(name: str, folder: Path) -> tuple[Model, str, int | None]:
    return (onnx.load(DIGITS), str(CALIB), 48) if name == "digits" else (fed(name)[0], saved(folder, name), None)


def files(tmp_path: Path, name: str) -> tuple[str, ...]:
    """A model of the zoo and its samples in files of this folder; arguments of the command line."""
    model, feed = fed(name)
    onnx.save(model, tmp_path / "in.onnx")
    np.savez(tmp_path / "c.npz", **feed)
    return "in.onnx", "--calib", "c.npz"


Planned = tuple[Plan, dict[str, Any]]


KNOWN: dict[Any, Planned] = {}


def plan(name: str, folder: Path, **options: Any) -> Planned:
    """A plan; the same one is made once only."""
    key = name, tuple(options.items())
    if key not in KNOWN:
        model, calib, limit = source(name, folder)
        KNOWN[key] = api.plan(model, calib, PlanOptions(**{"copies": 2, **options}), limit=limit)
    return KNOWN[key]


def carried_out(name: str, folder: Path, made: Plan, verify: bool = False) -> api.RewriteResult:
    model, calib, limit = source(name, folder)
    return api.rewrite(model, calib=calib, passes=[Translate(plan=made)], verify=verify, limit=limit)


def extra_macs(report: dict[str, Any]) -> float:
    return float(report["cost"]["macs_after"] / report["cost"]["macs_before"] - 1)


def mean_copies(made: Plan, channels: int) -> float:
    return float(sum(r.copies.sum() + r.copies_low.sum() for r in made.regions)) / channels


def not_worse(report: dict[str, Any]) -> bool:
    q = report["quality"]
    before, after = (np.inf if v is None else v for v in (q["sqnr_before_db"], q["sqnr_after_db"]))
    better = q["agreement_before"] is not None and q["agreement_after"] > q["agreement_before"]
    return bool(after >= before - 0.01 or better)


NETS = [
    "residual", "three_layers", "depthwise", "grouped", "conv_transpose", "matmul_gelu", "flatten_gemm",
    "concat_wide", "concat_narrow", "concat_requantized", "concat_depthwise", "concat_grouped", "concat_twice",
    "requantized", "depthwise_chain", "depthwise_flatten", "depthwise_pool", "groups_mixed",
    "output_integer", "attention", "bias_int8", "bias_int32_residual", "float16",
    "opset10", "fixed_batch",
]  # fmt: skip
