"""How many single mutations of rewritten models `verify` catches, by kind; slips are listed.

python tests/whole/tally_mutations.py [COUNT] [SEED]
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import mutations
import numpy as np
import onnx
import zoo

from onnx_ocs.api import rewrite
from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.calibration.samples import Samples
from onnx_ocs.passes.split import Split
from onnx_ocs.passes.translate import Translate
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.verification.verify import verify

Array = np.ndarray[Any, Any]
DIGITS = Path(__file__).resolve().parents[2] / "models"
BUDGET = PlanOptions(budget=0.2, effort="quick")


def subjects() -> dict[str, tuple[onnx.ModelProto, onnx.ModelProto]]:
    """Originals, and what they were rewritten to."""
    digits = onnx.load(DIGITS / "digits.w8a2.onnx")
    residual = zoo.build("bias_int32_residual")[0]
    depthwise = zoo.build("depthwise_per_channel")[0]
    calib = dict(np.load(DIGITS / "digits.calib.npz"))
    return {
        "digits, early and late": (digits, rewrite(digits, passes=[Translate(0.5, 1)], verify=False).model),
        "digits, planned": (digits, rewrite(digits, calib=calib, options=BUDGET, verify=False).model),
        "residual, late": (residual, rewrite(residual, passes=[Translate(1, 2, "late")], verify=False).model),
        "depthwise, early": (depthwise, rewrite(depthwise, passes=[Translate(1, 1)], verify=False).model),
        "digits, split": (digits, rewrite(digits, passes=[Split(0.5)], verify=False).model),
    }


def fed(model: onnx.ModelProto, seed: int) -> Samples:
    return random_samples(model, 8, seed)


def tally(count: int, seed: int) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Make mutations and verify each.

    Returns:
        By (kind, "made" | "effective" | "caught" | "caught all"), how many; and the effective ones that slipped.
    """
    rng, found, slips = np.random.default_rng(seed), Counter[tuple[str, str]](), list[str]()
    models = subjects()
    for name, (original, new) in models.items():
        feed = next(fed(original, seed).batches(8, 8))
        before = mutations.outputs(new, feed)
        assert not isinstance(before, str), before
        for turn in range(count // len(models)):
            kind = mutations.KINDS[turn % len(mutations.KINDS)]
            made = mutations.mutated(new, kind, rng)
            if made is None:
                continue
            shows = mutations.effective(before, mutations.outputs(made[0], feed))
            failed = verify(original, made[0], fed(original, seed)).verdict == "FAILED"
            found[kind, "made"] += 1
            found[kind, "caught all"] += failed
            found[kind, "effective"] += shows
            found[kind, "caught"] += shows and failed
            if not failed:
                slips.append(f"{name}: {made[1]}{' (effective)' if shows else ''}")
    return found, slips


def main() -> None:
    """Print the table."""
    count, seed = (int(a) for a in [*sys.argv[1:], "400", "0"][:2]) if len(sys.argv) < 3 else map(int, sys.argv[1:3])
    found, slips = tally(count, seed)
    columns = ("made", "effective", "caught", "caught all")
    print(f"{'kind':18}" + "".join(f"{c:>12}" for c in columns))
    for kind in mutations.KINDS:
        print(f"{kind:18}" + "".join(f"{found[kind, c]:>12}" for c in columns))
    print(f"{'together':18}" + "".join(f"{sum(found[k, c] for k in mutations.KINDS):>12}" for c in columns))
    print(*(f"slipped: {s}" for s in slips), sep="\n")


if __name__ == "__main__":
    main()
