"""Models for workers, side files included; a machine that does not see the file says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import zoo

from onnx_ocs.errors import UserError
from onnx_ocs.execution.stored import Stored, store
from onnx_ocs.model.files import fingerprint


def test_a_model_comes_back(tmp_path: Path) -> None:
    model, _ = zoo.build("residual")
    stored = store(model, fingerprint(model), tmp_path)
    assert stored == Stored(stored.hash, tmp_path / "elsewhere.onnx"), "a worker that has it reads no file again"
    assert stored.path.parent == tmp_path and fingerprint(stored.load()) == fingerprint(model)


def test_a_folder_that_this_machine_does_not_see(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not see .*TMPDIR"):
        Stored("0", tmp_path / "nowhere.onnx").load()
