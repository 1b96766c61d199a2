"""Errors that are the user's to mend.

Everything that a user can cause (bad file, bad option, calibration data that does not fit) is raised as
:class:`UserError`; the command line prints its one line and exits with 1.  Any other exception is a defect of
onnx_ocs and keeps its traceback.
"""

from __future__ import annotations

__all__ = ["CPP_ERRORS", "PassError", "UserError", "VerificationError", "first_line"]

# what exceptions of C++ code become in Python; onnx and onnxruntime have classes of their own besides
CPP_ERRORS: tuple[type[Exception], ...] = (RuntimeError, ValueError, IndexError, OverflowError, MemoryError)


class UserError(Exception):
    """A mistake in the input or the options: one sentence that says what to do."""


class PassError(Exception):
    """A pass failed or left an invalid model; the message names the pass and the ones that ran before it."""


class VerificationError(Exception):
    """The rewritten model is not what it claims to be; nothing was written."""


def first_line(e: BaseException, most: int = 300) -> str:
    """What another package's exception says, in one line of at most so many characters."""
    return (str(e).strip().splitlines() or [type(e).__name__])[0][:most]
