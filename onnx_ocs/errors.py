"""Errors that are the user's to mend.

Everything that a user can cause (bad file, bad option, calibration data that does not fit) is raised as
:class:`UserError`; the command line prints its one line and exits with 1.  Any other exception is a defect of
onnx_ocs and keeps its traceback.
"""

from __future__ import annotations

import errno
from unicodedata import category

__all__ = ["CPP_ERRORS", "PassError", "UserError", "VerificationError", "first_line", "printable", "shortage"]

# what exceptions of C++ code become in Python; onnx and onnxruntime have classes of their own besides
CPP_ERRORS: tuple[type[Exception], ...] = (RuntimeError, ValueError, IndexError, OverflowError, MemoryError)
UNSEEN = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of characters, separators of lines
HIDDEN = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")  # direction


class UserError(Exception):
    """A mistake in the input or the options: one sentence that says what to do."""


class PassError(Exception):
    """A pass failed or left an invalid model; the message names the pass and the ones that ran before it."""


class VerificationError(Exception):
    """The rewritten model is not what it claims to be; nothing was written."""


def first_line(e: BaseException, most: int = 300) -> str:
    """What another package's exception says, in one line of at most so many characters."""
    return (str(e).strip().splitlines() or [type(e).__name__])[0][:most]


def printable(text: str) -> str:
    """Text in which all that a terminal would obey, or that would turn what is read, is written as an escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c not in HIDDEN and category(c) not in UNSEEN else _escaped(c) for c in text)


def _escaped(c: str) -> str:
    return c.encode("unicode_escape", "backslashreplace").decode()


def shortage(e: BaseException) -> str | None:
    """What the machine has too little of, where an error says that, and what to do; None for any other error."""
    text = str(e)
    if isinstance(e, MemoryError) or any(w in text for w in ("bad_alloc", "Failed to allocate memory")):
        return "there is too little memory: use fewer --samples or workers, or a machine with more"
    if isinstance(e, OSError) and e.errno in (errno.EMFILE, errno.ENFILE):
        return "too many files are open: allow more (ulimit -n), or use fewer workers"
    if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({e.filename or 'temporary files'}): make room"
    return None
