"""Running English, and windows of tokens cut from it.

Two sources: Python's own manual, which is everywhere, and WikiText-2 in the form in which it is passed on (words split
by spaces), whose files are given.
"""

from __future__ import annotations

import lzma
import re
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from onnx_ocs.errors import UserError

__all__ = ["manual", "read_wikitext", "windows"]

Array = npt.NDArray[Any]
MARKS = (  # what splitting into words left behind, and what stood there
    (r" @([-,.])@ ", r"\1"),
    (r" ([,.;:!?%)\]])", r"\1"),
    (r"([(\[$£]) ", r"\1"),
    (r" (n't|'(?:s|re|ve|m|ll|d)|')(?= |$)", r"\1"),
    (r'" ([^"\n]*?) "', r'"\1"'),
    (r"(\d) (–|/) (\d)", r"\1\2\3"),
)


def manual(held: bool) -> str:
    """The prose of every other topic of Python's manual: of the even ones, or the odd ones that are `held` out."""
    names = sorted(topics)[held::2]
    found = [p for name in names for p in topics[name].split("\n\n") if not p.startswith("    ")]
    return "\n".join(" ".join(p.split()) for p in found)


def read_wikitext(path: Path) -> str:
    """A part of WikiText-2, the marks of its word splitting undone; `<unk>` stays as it stands.

    Args:
        path: text, or text that xz has packed.

    Raises:
        UserError: there is no such file.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    raw = path.read_bytes()
    text = (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode("utf-8")
    for mark, stood in MARKS:
        text = re.sub(mark, stood, text, flags=re.MULTILINE)
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def windows(text: str, tokenizer: Tokenizer, length: int, count: int) -> Array:
    """Windows of tokens, evenly spread over a text that is cut into such windows without gaps.

    Args:
        text: running text.
        tokenizer: makes tokens of it.
        length: tokens a window.
        count: of windows.

    Returns:
        int64 [count, length].

    Raises:
        UserError: the text is too short.
    """
    ids = np.array(tokenizer.encode(text).ids, np.int64)
    there = len(ids) // length
    if there < count:
        raise UserError(f"the text has {there} windows of {length} tokens, and {count} are asked for")
    return ids[: there * length].reshape(there, length)[np.arange(count) * there // count]
