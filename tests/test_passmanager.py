"""The pass manager: order, copies, notes, and passes that go wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import zoo
from onnx import helper, numpy_helper

from onnx_ocs.calibration.context import Context
from onnx_ocs.errors import PassError, UserError
from onnx_ocs.passes import Translate
from onnx_ocs.passmanager import PassResult, run_passes

SEEN: list[tuple[str, onnx.ModelProto | None, bool]] = []


def domain(model: onnx.ModelProto) -> None:
    model.domain = "edited"


@dataclass(frozen=True)
class Edit:
    """Does something the first time, unless it is told to go on."""

    what: Callable[[onnx.ModelProto], Any] = domain
    stops: bool = True
    depth: int = 3
    share: float = 0.5

    name: ClassVar[str] = "edit"
    version: ClassVar[str] = "7"

    def run(self, model: onnx.ModelProto, context: Context) -> PassResult:
        SEEN.append((self.name, context.original, context.again))
        if self.stops and any(p.key == "done" for p in model.metadata_props):
            return PassResult(False)
        self.what(model)
        model.metadata_props.add(key="done")
        return PassResult(True, notes=["edited"])


@dataclass(frozen=True)
class Nothing(Edit):
    """Changes nothing."""

    name: ClassVar[str] = "nothing"

    def run(self, model: onnx.ModelProto, context: Context) -> PassResult:
        SEEN.append((self.name, context.original, context.again))
        return PassResult(False, [{"tensor": "x"}])


@pytest.fixture(autouse=True)
def forget() -> None:
    SEEN.clear()


def model() -> onnx.ModelProto:
    return zoo.build("conv_relu_conv")[0]


def test_passes_run_in_order_on_a_copy() -> None:
    old = model()
    before = old.SerializeToString()
    new, results = run_passes(old, [Nothing(), Edit()], Context())
    assert old.SerializeToString() == before and new.domain == "edited"
    assert list(results) == ["nothing", "edit"]
    assert not results["nothing"].changed and results["nothing"].regions == [{"tensor": "x"}]
    assert results["edit"].notes == ["edited"]
    assert [("nothing", old, False), ("edit", old, False), ("edit", old, True)] == SEEN  # its own result, once more


def test_where_nothing_changes_the_model_is_the_given_one() -> None:
    old = model()
    new, _ = run_passes(old, [Nothing(), Nothing()], Context())
    assert new is old
    assert run_passes(old, [], Context()) == (old, {})


def test_what_has_run_is_noted_with_its_options() -> None:
    new, _ = run_passes(model(), [Edit(depth=5)], Context())
    (note,) = (json.loads(p.value) for p in new.metadata_props if p.key == "onnx_ocs.passes")
    assert note == [{"pass": "edit", "version": "7", "options": {"stops": True, "depth": 5, "share": 0.5}}]


def test_a_pass_must_be_content_with_its_own_result() -> None:
    with pytest.raises(PassError, match=r"a second run of the pass 'edit' changes its own result$"):
        run_passes(model(), [Edit(stops=False)], Context())


def fail(error: Exception) -> Callable[[onnx.ModelProto], None]:
    def what(_: onnx.ModelProto) -> None:
        raise error

    return what


def test_a_pass_that_fails_is_named_with_those_before_it() -> None:
    message = r"the pass 'edit' failed \(ran before it: nothing\): ZeroDivisionError: by 0"
    with pytest.raises(PassError, match=message) as caught:
        run_passes(model(), [Nothing(), Edit(fail(ZeroDivisionError("by 0")))], Context())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_users_mistake_goes_through() -> None:
    with pytest.raises(UserError, match=r"^no samples$"):
        run_passes(model(), [Edit(fail(UserError("no samples")))], Context())


def unknown_input(m: onnx.ModelProto) -> None:
    m.graph.node[-1].input[0] = "nowhere"


def wrong_shape(m: onnx.ModelProto) -> None:
    m.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 99


@pytest.mark.parametrize("break_it", [unknown_input, wrong_shape])
def test_a_model_that_the_checker_rejects_is_not_given_out(break_it: Callable[[onnx.ModelProto], None]) -> None:
    with pytest.raises(PassError, match=r"the pass 'edit' left a model that onnx\.checker rejects: .+"):
        run_passes(model(), [Edit(break_it)], Context())


def test_a_model_that_was_no_better_before_may_be_edited() -> None:
    """The checker complains of the original, too: that is not held against the pass."""
    old = onnx.ModelProto()
    old.CopyFrom(model())
    old.graph.node.append(helper.make_node("NoSuchOperator", ["x"], ["z"]))
    new, _ = run_passes(old, [Edit()], Context())
    assert new.domain == "edited"


def test_new_initializers_need_not_be_listed() -> None:
    """Before IR version 4 every initializer had to be a graph input."""
    old = onnx.ModelProto()
    old.CopyFrom(model())
    old.ir_version = 3
    constants = [(t.name, t.data_type, list(t.dims)) for t in old.graph.initializer]
    old.graph.input.extend(helper.make_tensor_value_info(*c) for c in constants)

    def add(m: onnx.ModelProto) -> None:
        m.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "unlisted"))

    new, _ = run_passes(old, [Edit(add)], Context())
    assert new.ir_version == 4
    newer = onnx.ModelProto()
    newer.CopyFrom(model())
    assert run_passes(newer, [Edit()], Context())[0].ir_version == newer.ir_version > 4


def test_a_pass_sees_what_those_before_it_did() -> None:
    new, results = run_passes(model(), [Translate(), Edit()], Context())
    assert results["translate"].changed and new.domain == "edited"
    (text,) = (p.value for p in new.metadata_props if p.key == "onnx_ocs.passes")
    assert [e["pass"] for e in json.loads(text)] == ["translate", "edit"]
