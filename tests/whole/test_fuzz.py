"""Damaged files, a few of them; `python tests/whole/fuzz.py` runs thousands."""

from __future__ import annotations

import faulthandler
from collections import Counter
from pathlib import Path

import fuzz
import pytest

DATA = Path(__file__).resolve().parents[1] / "data"
FILES = sorted((f for f in DATA.glob("*.onnx") if f.stat().st_size < 25_000), key=lambda f: f.name)[:12]


@pytest.mark.skipif(not hasattr(fuzz.os, "fork"), reason="needs processes of its own")
def test_damaged_files() -> None:
    answers: Counter[str] = Counter()
    for path, seed in fuzz.cases(FILES, 60, seed=7):
        what, answer = fuzz.run_case(path, seed)
        assert not answer.startswith("violation"), f"{path.name}, seed {seed}, {what}: {answer}"
        answers[answer] += 1
    assert answers["refused"] > 20 and answers["rewritten"] > 5


def test_violations_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise KeyError("a defect")

    fuzz.prepare(tmp_path, FILES[0].read_bytes())
    monkeypatch.setattr(fuzz.api, "rewrite", crash)
    assert "a defect" in fuzz.isolated(tmp_path, False)

    def die(*_: object, **__: object) -> None:
        faulthandler.disable()  # no stack on the terminal: this one is wanted
        fuzz.os.abort()

    monkeypatch.setattr(fuzz.api, "rewrite", die)
    assert "SIGABRT" in fuzz.isolated(tmp_path, False)
