"""The same input, options and seed give the same bytes, in every process; start-up and deep graphs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_ocs.calibration.context import Context
from onnx_ocs.model import files
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import run_passes

MODELS = Path(__file__).resolve().parents[2] / "models"


CALIB = ("--calib", str(MODELS / "digits.calib.npz"))
COMMANDS = {
    "estimated": (),
    "planned": (*CALIB, "--budget", "0.1", "--samples", "16", "--report", "planned.json"),
    "compensated": (*CALIB, "--passes", "compensate", "--samples", "48"),
}
PROGRAM = """
import sys
from onnx_ocs.cli.app import main
from onnx_ocs.measurement import latency
latency.ROUNDS = latency.LEAST
for args in {commands}:
    sys.argv[1:] = args
    try:
        main()
    except SystemExit as e:
        assert not e.code, e.code
"""


def written(folder: Path, seed: int) -> dict[str, bytes]:
    """What the commands write in a process whose hashes are others."""
    folder.mkdir()
    model = str(MODELS / "digits.w8a2.onnx")
    commands = [["rewrite", model, f"{name}.onnx", "-q", *args] for name, args in COMMANDS.items()]
    environment = os.environ | {"PYTHONHASHSEED": str(seed)}
    environment.pop("OPENBLAS_NUM_THREADS", None)  # as many threads as users have (see conftest.py)
    program = PROGRAM.format(commands=commands)
    subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_processes_agree(tmp_path: Path) -> None:
    first, second = (written(tmp_path / str(k), k) for k in (1, 2))
    assert first.keys() == second.keys() == {"planned.json", *(f"{name}.onnx" for name in COMMANDS)}
    for name in COMMANDS:
        assert first[f"{name}.onnx"] == second[f"{name}.onnx"] != (MODELS / "digits.w8a2.onnx").read_bytes(), name


def test_help_waits_for_nothing() -> None:
    program = (
        "import sys, onnx_ocs.cli; print([m for m in ('onnx', 'onnxruntime', 'numpy', 'rich') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_long_chains_need_no_recursion() -> None:
    """Thousands of steps between a quantizer and its layer, and of constants' steps: one after the other."""
    length = 3000
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q0"])]
    nodes += [helper.make_node("Identity", [f"q{k}"], [f"q{k + 1}"]) for k in range(length)]
    nodes += [helper.make_node("DequantizeLinear", [f"q{length}", "s", "z"], ["d0"])]
    nodes += [helper.make_node("Relu", [f"d{k}"], [f"d{k + 1}"]) for k in range(length)]
    nodes += [helper.make_node("Identity", [f"w{k}"], [f"w{k + 1}"]) for k in range(length)]
    nodes += [helper.make_node("MatMul", [f"d{length}", f"w{length}"], ["y"])]

    constants = {"s": np.float32(0.01), "z": np.uint8(0), "w0": np.ones((4, 4), np.float32)}
    g = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    depth = sys.getrecursionlimit()
    sys.setrecursionlimit(300)
    try:
        _, results = run_passes(model, [Translate()], Context())
    finally:
        sys.setrecursionlimit(depth)
    assert len(results["translate"].regions) == 1


def test_deep_subgraphs_stay(tmp_path: Path) -> None:
    """An If within an If within ...: left intact, as deep as protobuf reads."""

    def nested(levels: int) -> onnx.ModelProto:
        def branch(inner: onnx.GraphProto | None) -> onnx.GraphProto:
            if inner is None:
                return helper.make_graph(
                    [helper.make_node("Identity", ["x"], ["b"])],
                    "leaf",
                    [],
                    [helper.make_tensor_value_info("b", 1, None)],
                )
            node = helper.make_node("If", ["c"], ["b"], then_branch=inner, else_branch=branch(None))
            return helper.make_graph([node], "branch", [], [helper.make_tensor_value_info("b", 1, None)])

        g = None
        for _ in range(levels):
            g = branch(g)
        graph = helper.make_graph(
            [
                helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
                helper.make_node("DequantizeLinear", ["q", "s"], ["d"]),
                helper.make_node("If", ["c"], ["y"], then_branch=g, else_branch=branch(None)),
            ],
            "deep",
            [helper.make_tensor_value_info("x", 1, [1, 4]), helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
            [helper.make_tensor_value_info("y", 1, None), helper.make_tensor_value_info("d", 1, None)],
            [helper.make_tensor("s", 1, [], [0.1])],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    path = tmp_path / "deep.onnx"
    path.write_bytes(nested(20).SerializeToString())
    new, _ = run_passes(files.load_model(path), [Translate()], Context())
    assert new.graph.node[2].SerializeToString() == nested(20).graph.node[2].SerializeToString()
