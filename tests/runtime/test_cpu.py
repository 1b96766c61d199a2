"""Instruction sets as the kernel lists them, and which machines' int8 kernels may saturate."""

from __future__ import annotations

import pytest

from onnx_ocs.runtime import cpu as module
from onnx_ocs.runtime.cpu import cpu_flags, may_saturate


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
    assert cpu_flags() == flags


@pytest.mark.parametrize(
    ("machine", "flags", "saturates"),
    [
        ("x86_64", ["avx2"], True),
        ("AMD64", [], True),  # not known: it is measured
        ("x86_64", ["avx2", "avx_vnni"], False),
        ("x86_64", ["avx512f", "avx512_vnni"], False),
        ("aarch64", ["asimd"], False),
    ],
)
def test_which_cpu_may_saturate(
    machine: str, flags: list[str], saturates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.platform, "machine", lambda: machine)
    monkeypatch.setattr(module, "cpu_flags", lambda: flags)
    assert may_saturate() is saturates
