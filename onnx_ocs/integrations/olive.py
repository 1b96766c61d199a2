"""A pass of Olive: the rewrite as a step of an Olive workflow, behind Olive's quantizers.

    python -m onnx_ocs.integrations.olive > package.json
    olive run --config workflow.json --package-config package.json

A package config that a user gives takes the place of Olive's own, so the one that is written here is Olive's with our
pass added.  Needs olive-ai (extra `olive`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal, get_origin

from olive.common.config_utils import ParamCategory, validate_config
from olive.data.config import DataConfig
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.package_config import OlivePackageConfig
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam

from onnx_ocs import api
from onnx_ocs.cli.groups import Judged, Targets, Time, judged, plan_options
from onnx_ocs.cli.options import Flag, Given, flags_of
from onnx_ocs.errors import UserError
from onnx_ocs.passes import DEFAULT, DEFAULT_BLIND, PASSES, Translate
from onnx_ocs.passes.registry import Auto, find_pass, make_passes, moves_of
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.report.report import to_json

__all__ = ["REPORT", "OnnxOcs", "package_config"]

REPORT = "onnx_ocs_report.json"  # beside the model
ENTRY = Path(__file__).with_name("olive_package.json")
KINDS = (PlanOptions, Time, Targets, Judged, *(p for p in PASSES.values() if p.name != "split"))
FLAGS = {f.parameter: f for kind in reversed(KINDS) for f in flags_of(kind) if f.kind is not Path}


def package_config() -> dict[str, Any]:
    """Olive's package config with our pass."""
    merged: dict[str, Any] = json.loads(Path(OlivePackageConfig.get_default_config_path()).read_text(encoding="utf-8"))
    merged["passes"][OnnxOcs.__name__] = json.loads(ENTRY.read_text(encoding="utf-8"))
    return merged


class OnnxOcs(Pass):
    """Rewrite a quantized (QDQ) ONNX model so that accuracy comes back, and verify it.

    The parameters are the options of `onnx-ocs rewrite`, with the same names: `budget`, `objective`, `target_sqnr`,
    `nbc_budget`.  The report lies beside the model.
    """

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, Any]:
        own = {
            "data_config": PassConfigParam(
                type_=DataConfig | dict[str, Any] | None,
                default_value=None,
                description="Calibration samples; without them outliers are estimated.",
            ),
            "passes": PassConfigParam(
                type_=list[str] | None,
                default_value=None,
                description=f"Passes to run, in order: {', '.join(PASSES)}; or auto. Default: as on the command line.",
            ),
            "float_model": PassConfigParam(
                type_=Path | str | None,
                default_value=None,
                category=ParamCategory.PATH,
                description="The float model, as the reference.",
            ),
            "samples": PassConfigParam(
                type_=int | None, default_value=None, description="Use at most so many samples."
            ),
            "seed": PassConfigParam(type_=int, default_value=0, description="Seed of everything random."),
        }
        return {**own, **{name: _parameter(f) for name, f in FLAGS.items()}}

    def _run_for_config(self, model: Any, config: Any, output_model_path: str) -> ONNXModelHandler:
        """Rewrite the model.

        Raises:
            UserError: it is no QDQ model, or options do not go together.
            VerificationError: the result is not what it claims to be; nothing was written.
        """
        if not isinstance(model, ONNXModelHandler):
            raise UserError("OnnxOcs rewrites ONNX models: put it behind a pass that writes one")
        out = Path(resolve_onnx_path(output_model_path, Path(model.model_path).name))
        out.parent.mkdir(parents=True, exist_ok=True)
        calib = _samples(config, model)
        names, auto = moves_of(config.passes or [p.name for p in (DEFAULT_BLIND if calib is None else DEFAULT)])
        given = Given([*FLAGS.values()], _said(config))
        passes = make_passes(names, _addressed(given, names))
        options = plan_options(given, spend=auto) if calib is not None and Translate.name in names else None
        result = api.rewrite(
            Path(model.model_path),
            out,
            calib=calib,
            float_model=None if config.float_model is None else Path(config.float_model),
            passes=Auto(tuple(passes)) if auto else passes,
            options=options,
            seed=config.seed,
            limit=config.samples,
            judging=judged(given, calib),
        )
        (out.parent / REPORT).write_text(to_json({**result.report, "title": out.name}), encoding="utf-8")
        files = [*(model.model_attributes or {}).get("additional_files", []), str(out.parent / REPORT)]
        attributes = {**(model.model_attributes or {}), "additional_files": sorted(set(files))}
        return ONNXModelHandler(
            model_path=str(out.parent),  # a folder, since side files and the report belong to it
            onnx_file_name=out.name,
            inference_settings=model.inference_settings,
            model_attributes=attributes,
        )


def _parameter(flag: Flag) -> PassConfigParam:
    """The parameter of one of our options; None where an option says nothing by default."""
    kind: Any = Literal[tuple(flag.choices)] if flag.choices else flag.item
    default = flag.default
    if flag.many:
        kind, default = list[kind], None
    elif get_origin(flag.kind) is Literal and default is not None:
        default = next(word for word, value in flag.choices.items() if value == default)
    return PassConfigParam(
        type_=kind if default is not None else kind | None, default_value=default, description=flag.option.help
    )


def _said(config: BasePassConfig) -> dict[str, Any]:
    """What differs from the defaults: an option that is left alone must not count as given."""
    values = {name: getattr(config, name) for name in FLAGS}
    return {k: v for k, v in values.items() if v is not None and v != _parameter(FLAGS[k]).default_value}


def _addressed(given: Given, names: list[str]) -> dict[str, Any]:
    """The passes' options by address."""
    return {f"{name}.{field}": value for name in names for field, value in given.of(find_pass(name)).items()}


def _samples(config: Any, model: ONNXModelHandler) -> Any:
    """The samples as Olive's own quantizers get them: an onnxruntime CalibrationDataReader."""
    if config.data_config is None:
        return None
    data = validate_config(config.data_config, DataConfig).to_data_container()
    return data.create_calibration_dataloader(model_path=model.model_path, io_config=model.io_config)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(package_config(), indent=1) + "\n")
