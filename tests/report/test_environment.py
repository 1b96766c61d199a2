"""What results depend on is in the report."""

from __future__ import annotations

import platform

import onnxruntime
import pytest

from onnx_ocs.report import environment as module
from onnx_ocs.report.environment import environment, package_version


def test_versions() -> None:
    found = environment(7)
    assert found["seed"] == 7 and found["onnxruntime"] == onnxruntime.__version__
    assert found["python"] == platform.python_version()
    assert package_version("no-such-package-at-all") == "unknown"


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("processor: 0\nflags\t\t: fpu avx2 avx avx512_vnni\n", ["avx", "avx2", "avx512_vnni"]),
        ("Features : fp asimd i8mm\n", ["asimd", "i8mm"]),
        ("nothing here\n", []),
        (None, []),
    ],
)
def test_cpu_flags(text: str | None, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class File:
        def __init__(self, _path: str) -> None:
            pass

        def read_text(self, encoding: str) -> str:
            if text is None:
                raise OSError("no such file")
            return text

    monkeypatch.setattr(module, "Path", File)
    assert environment(0)["cpu_flags"] == flags
