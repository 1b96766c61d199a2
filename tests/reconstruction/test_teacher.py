"""What training aims at: outputs by their place, and layers as far as what follows can express them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from zoo import build, execute

from onnx_ocs.calibration.context import Context
from onnx_ocs.errors import UserError
from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import run_passes
from onnx_ocs.probes.reference import reference
from onnx_ocs.reconstruction.trainable import find_trainable
from onnx_ocs.regions.find import find_regions
from onnx_ocs.runtime.instrument import expose

torch = pytest.importorskip("torch")
from onnx_ocs.reconstruction.interpreter import tensor  # noqa: E402
from onnx_ocs.reconstruction.teacher import Teacher  # noqa: E402

Feed = dict[str, np.ndarray]


def stand_in(model: onnx.ModelProto) -> onnx.ModelProto:
    return reference(model, find_regions(EditableGraph(model), infer_shapes(model)))


def taught(model: onnx.ModelProto, floats: onnx.ModelProto, feed: Feed, genuine: bool = True) -> Teacher:
    graph = EditableGraph(model)
    return Teacher(graph, find_trainable(graph).layers, floats, genuine, [feed])


@pytest.mark.parametrize("genuine", [True, False])
def test_outputs_and_hints(genuine: bool) -> None:
    """A hint is the layer's output, held within what the quantizer behind it expresses."""
    model, feed = build("conv_relu_conv")
    floats = stand_in(model)
    teacher = taught(model, floats, feed, genuine)
    outputs, hints = teacher.answer(feed)
    (name,) = outputs
    np.testing.assert_allclose(outputs[name].numpy(), execute(floats, feed)[0], rtol=1e-5, atol=1e-6)
    assert [h.ours for h in teacher.hints] == ["conv1"]  # the other layer is the output
    inner = execute(expose(floats, ["conv1"]), feed)[-1]
    top = 255 * float(EditableGraph(model).constant("relu1_scale"))  # type: ignore[arg-type]
    np.testing.assert_allclose(hints[0].numpy(), np.clip(inner, 0, top), rtol=1e-5, atol=1e-6)
    assert inner.max() > top


def test_outputs_are_paired_by_their_place() -> None:
    model, feed = build("conv_relu_conv")
    floats = onnx.ModelProto()
    floats.CopyFrom(stand_in(model))
    old = floats.graph.output[0].name
    for n in floats.graph.node:
        n.output[:] = ["another" if o == old else o for o in n.output]
    floats.graph.output[0].name = "another"
    teacher = taught(model, floats, feed)
    assert teacher.outputs == {old: "another"} and teacher.answer(feed)[0].keys() == {old}


def test_where_a_branch_is_added_the_sum_counts() -> None:
    model, feed = build("residual")
    teacher = taught(model, stand_in(model), feed, genuine=False)
    sums = [h for h in teacher.hints if len(h.theirs) == 2]
    assert len(sums) == 1 and sums[0].ours == "add1"
    _, hints = teacher.answer(feed)
    there = execute(expose(stand_in(model), ["add1"]), feed)[-1]
    seen = hints[teacher.hints.index(sums[0])].numpy()
    top = float(sums[0].high.max())
    np.testing.assert_allclose(seen, np.clip(there, 0, top), rtol=1e-4, atol=1e-5)


def test_copies_do_not_count() -> None:
    model, feed = build("conv_relu_conv")
    wide = run_passes(model, [Translate(ratio=1.0)], Context())[0]
    (hint,) = taught(wide, stand_in(model), feed).hints
    assert hint.rows is not None and len(hint.rows) == 8
    ours = tensor(execute(expose(wide, [hint.ours]), feed)[-1])
    assert ours.shape[1] == 16
    seen = hint.ours_in({hint.ours: ours})
    narrow = execute(expose(model, ["conv1"]), feed)[-1]
    high = hint.high.reshape(-1).numpy()[:, None, None] if hint.high.numel() > 1 else float(hint.high)
    np.testing.assert_allclose(seen.numpy(), np.clip(narrow, 0, high), rtol=1e-4, atol=1e-4)
    assert np.max(high) > 1.9 * 255 * float(EditableGraph(model).constant("relu1_scale"))  # type: ignore[arg-type]


def test_another_model_is_refused() -> None:
    model, feed = build("conv_relu_conv")
    with pytest.raises(UserError, match="other outputs than the quantized"):
        taught(model, build("conv_transpose")[0], feed)
    with pytest.raises(UserError, match="does not run on the samples"):
        taught(model, build("gemm")[0], feed)
