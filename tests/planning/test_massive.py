"""One value hundreds of times the rest (massive activations): a step for all leaves the rest none, copies give it back.

The shape of a decoder's worst tensor: the input of the MLP's last layer, one channel, one token.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from massive import nets, values

import onnx_ocs
from onnx_ocs import PlanOptions
from onnx_ocs.passes import Translate


@pytest.mark.parametrize(("copies", "least", "most"), [(7, 22, 28), (15, 36, 45), (255, 39, 50)])
def test_copies_of_one_channel_give_the_others_their_steps_back(copies, least, most, tmp_path):
    """With 7 copies the step is 1/8 of the old one; by default one channel gets as many as it takes."""
    rng = np.random.default_rng(0)
    floats, quantized = nets(rng)
    x = values(rng, 32)
    onnx.save(floats, tmp_path / "float.onnx")
    onnx.save(quantized, tmp_path / "int8.onnx")
    done = onnx_ocs.rewrite(
        tmp_path / "int8.onnx", tmp_path / "out.onnx", calib={"x": x}, float_model=tmp_path / "float.onnx",
        options=PlanOptions(budget=8.0, copies=copies), passes=(Translate(),),
    )  # fmt: skip
    (region,) = (r for r in done.report["regions"] if r["status"] == "applied")
    given = np.asarray(region["copies"])
    assert given[7] == given.max() and (given.max() <= 7) == (copies == 7)
    quality = done.report["quality"]
    assert quality["sqnr_before_db"] < 8 and least < quality["sqnr_after_db"] < most
    assert done.report["verification"]["verdict"] == "PASSED"
