"""`onnx-ocs calibrate` and `onnx-ocs merge`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from onnx_ocs.cli.groups import Data, Format, In, Output, begin
from onnx_ocs.cli.options import Given, Verb
from onnx_ocs.cli.outputs import check_outputs, publishing, show_progress, showing, start_logging
from onnx_ocs.cli.running import Running
from onnx_ocs.errors import UserError
from onnx_ocs.options import Option, option, required

if TYPE_CHECKING:
    from onnx_ocs.calibration.statistics import Statistics
    from onnx_ocs.model.publishing import Transaction

__all__ = ["CALIBRATE", "MERGE"]

OUT = Option("Where the statistics go.", flag="--out", short="-o", metavar="S.npz", panel="Options")
Files = Annotated[list[Path], typer.Argument(metavar="STATS...", help="Statistics of shards.", show_default=False)]


@dataclass(frozen=True)
class Counted:
    """What is counted, and where it goes."""

    output: Path = required(OUT)
    shard: str = option(
        "1/1", "Count the K-th of N parts of the samples alone; `merge` adds them.", metavar="K/N", panel=Data.panel
    )

    panel: ClassVar[str] = Output.panel

    @property
    def part(self) -> tuple[int, int]:
        """The shard's number, and how many there are.

        Raises:
            UserError: it is no shard.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", self.shard)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UserError(f"--shard {self.shard}: give K/N with K from 1 to N, such as 3/16")
        return int(found[1]), int(found[2])


@dataclass(frozen=True)
class Merged:
    """Where the sum goes."""

    output: Path = required(OUT)
    partial: bool = option(False, "Write it even if shards are missing: to be merged with others.", panel="Options")

    panel: ClassVar[str] = Output.panel


def calibrate(model: In, given: Given) -> None:
    """Count activations on calibration samples, all or a shard of them, for `plan --stats` and `rewrite --stats`.

    ```
    onnx-ocs calibrate in.onnx --calib samples.npz -o stats.npz
    onnx-ocs calibrate in.onnx --calib samples.npz -o 3.npz --shard 3/16     on any machine
    onnx-ocs merge *.npz -o stats.npz
    ```
    """
    data, out = begin(given)
    wanted, running = given.make(Counted), given.make(Running)
    check_outputs({"-o": wanted.output}, (model, data.float_model), data.calib)
    executor, part = running.choice(data.calib), wanted.part
    assert data.calib is not None  # --calib is needed
    from onnx_ocs import api

    with publishing(wanted.output) as transaction:
        with show_progress(out.quiet) as progress:
            found = api.calibrate(
                model, data.calib, part, data.float_model, data.limit, progress, given.make(Format).convert_qoperator,
                executor,
            )  # fmt: skip
        _publish(transaction, found, wanted.output, out.quiet)


def merge(stats: Files, given: Given) -> None:
    """Add the statistics of shards, in any order: what one process would have counted, byte for byte.

    ```
    onnx-ocs merge 1.npz 2.npz 3.npz -o stats.npz
    ```
    """
    wanted, out = given.make(Merged), given.make(Output)
    if out.verbose:
        start_logging(out.verbose)
    check_outputs({"-o": wanted.output}, others=stats)
    from onnx_ocs import api

    with publishing(wanted.output) as transaction:
        found = api.merge(stats, wanted.partial)
        _publish(transaction, found, wanted.output, out.quiet)


def _publish(transaction: Transaction, found: Statistics, path: Path, quiet: bool) -> None:
    """Write the statistics, and say so."""
    transaction.file(path, found.to_bytes())
    if not quiet:
        with showing():
            typer.echo(f"{len(found.regions)} tensors on {found.samples} samples: {path}")
    transaction.publish()


LEFT = ("--report", "--html", "--seed")
CALIBRATE = Verb(calibrate, (Data, Running, Format, Counted, Output), leaves=LEFT, needs=("--calib",))
MERGE = Verb(merge, (Merged, Output), leaves=LEFT)
