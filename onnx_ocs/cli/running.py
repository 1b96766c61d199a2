"""Who computes: this process, others of this machine, or other machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx_ocs.errors import UserError
from onnx_ocs.options import option

__all__ = ["Running"]


@dataclass(frozen=True)
class Running:
    """Who computes what is a sum over samples."""

    executor: str | None = option(
        None,
        "Who computes what is a sum over samples: processes:N of this machine, dask:local[:N] or dask:tcp://HOST:PORT "
        "(extra: dask). They read the samples themselves; the result is the same.",
        metavar="NAME",
        shown="this process",
    )
    jobs: int = option(1, "N is the same as --executor processes:N, 1 this process.", low=1, high=256)

    panel: ClassVar[str] = "Data"

    def choice(self, calib: object) -> str | None:
        """The executor; None: this process.

        Args:
            calib: the samples' source; None without.

        Raises:
            UserError: two are given, there are no samples, or there is no such executor.
        """
        if self.executor is not None and self.jobs > 1:
            raise UserError("--executor and --jobs both say who computes: give one of them")
        found = self.executor or (f"processes:{self.jobs}" if self.jobs > 1 else None)
        if found is not None:
            if calib is None:
                flag = "--jobs" if self.executor is None else "--executor"
                raise UserError(f"{flag} needs --calib: samples are what is shared out")
            from onnx_ocs.execution.choice import check

            check(found)
        return found
