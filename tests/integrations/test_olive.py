"""The pass of Olive: its parameters, the package config, and the workflow of docs/ with the real olive-ai."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

import onnx_ocs

pytest.importorskip("olive", reason="needs olive-ai (extra olive); docs/olive.md has the last result")

from onnx_ocs.errors import UserError
from onnx_ocs.integrations.olive import REPORT, OnnxOcs, package_config

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "digits.w8a2.onnx"


def made(**config: Any) -> Any:
    from olive.passes.olive_pass import create_pass_from_dict

    return create_pass_from_dict(OnnxOcs, config, disable_search=True)


def model(path: Path) -> Any:
    from olive.model import ONNXModelHandler

    return ONNXModelHandler(model_path=str(path))


def test_the_package_config_is_olives_with_our_pass() -> None:
    from olive.package_config import OlivePackageConfig

    default = json.loads(Path(OlivePackageConfig.get_default_config_path()).read_text(encoding="utf-8"))
    merged = package_config()
    assert merged["passes"].pop("OnnxOcs")["module_path"] == "onnx_ocs.integrations.olive.OnnxOcs"
    assert merged == default
    assert OlivePackageConfig.model_validate(package_config()).import_pass_module("OnnxOcs") is OnnxOcs


def test_parameters_are_the_options_of_rewrite() -> None:
    from pydantic import ValidationError

    config = made(budget=0.5, objective="sqnr", exclude=["a*"], nbc_form=["low-rank"]).config
    assert (config.budget, config.objective, config.exclude, config.mode) == (0.5, "sqnr", ["a*"], "auto")
    assert {"data_config", "passes", "target_sqnr", "nbc_budget", "float_model"} <= set(type(config).model_fields)
    assert "calib" not in type(config).model_fields and "stats" not in type(config).model_fields
    for wrong in ({"objective": "best"}, {"budget": "much"}, {"copies": 1.5}):
        with pytest.raises(ValidationError):
            made(**wrong)


def test_without_samples(tmp_path: Path) -> None:
    done = made().run(model(DIGITS), str(tmp_path / "out"))
    report = json.loads((tmp_path / "out" / REPORT).read_text(encoding="utf-8"))
    assert report["verification"]["verdict"] == "PASSED" and report["title"] == Path(done.model_path).name
    wanted = onnx_ocs.rewrite(DIGITS).model
    assert onnx.load(done.model_path).graph == wanted.graph
    assert done.model_attributes["additional_files"] == [str(tmp_path / "out" / REPORT)]


def test_mistakes_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no pass 'polish'"):
        made(passes=["polish"]).run(model(DIGITS), str(tmp_path / "out"))
    with pytest.raises(UserError, match="quantize it to QDQ format first"):
        made().run(model(DIGITS.with_name("digits.fp32.onnx")), str(tmp_path / "out"))
    assert not list(tmp_path.rglob("*.onnx"))


def test_the_workflow_of_the_docs(tmp_path: Path) -> None:
    """Olive's own quantizer, then ours, as docs/olive.md shows; on fewer samples."""
    page = (ROOT / "docs" / "olive.md").read_text(encoding="utf-8")
    script = re.search(r"<!-- file: digits_data.py -->\n```python\n(.*?)```", page, re.S)
    workflow = json.loads((ROOT / "docs" / "olive_workflow.json").read_text(encoding="utf-8"))
    assert script is not None
    workflow["data_configs"][0]["load_dataset_config"]["params"]["count"] = 24
    (tmp_path / "digits_data.py").write_text(script.group(1), encoding="utf-8")
    (tmp_path / "workflow.json").write_text(json.dumps(workflow), encoding="utf-8")
    (tmp_path / "package.json").write_text(json.dumps(package_config()), encoding="utf-8")
    (tmp_path / "models").symlink_to(ROOT / "models")
    olive = shutil.which("olive", path=str(Path(sys.executable).parent))
    assert olive is not None
    env = {**os.environ, "PYTHONPATH": str(Path(onnx_ocs.__file__).parents[1]), "OLIVE_DISABLE_TELEMETRY": "1"}
    command = [olive, "run", "--config", "workflow.json", "--package-config", "package.json"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "olive_out" / REPORT).read_text(encoding="utf-8"))
    assert report["verification"]["verdict"] == "PASSED" and report["quality"]["reference"] == "float model"
    assert report["quality"]["sqnr_after_db"] > report["quality"]["sqnr_before_db"] + 3
    assert report["quality"]["samples"] == 24
    onnx.checker.check_model(onnx.load(tmp_path / "olive_out" / "model.onnx"), full_check=True)
