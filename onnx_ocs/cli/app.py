"""The command line: `python -m onnx_ocs VERB`.

Exit codes: 0 done (also when there was nothing to rewrite); 1 the user's error, one clear message; 2 verification
failed, nothing was written; 3 the target was missed, the best was written; 128 and its number for a signal.  Heavy
imports wait until a verb runs.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from onnx_ocs.cli.calibrate import CALIBRATE, MERGE
from onnx_ocs.cli.compare import COMPARE
from onnx_ocs.cli.inspect import INSPECT
from onnx_ocs.cli.outputs import Interrupted, start_logging
from onnx_ocs.cli.plan import PLAN
from onnx_ocs.cli.report import REPORT
from onnx_ocs.cli.rewrite import REWRITE
from onnx_ocs.cli.verify import VERIFY
from onnx_ocs.errors import PassError, UserError, printable, shortage
from onnx_ocs.runtime.memory import few_heaps

__all__ = ["VERBS", "app", "main"]

MOST = 2000  # characters of a message
VERBS = (INSPECT, REWRITE, PLAN, CALIBRATE, MERGE, VERIFY, REPORT, COMPARE)
# typer's own usage errors; which package they come from differs between its releases
UsageError: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name="onnx_ocs",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        from onnx_ocs.report.environment import package_version

        typer.echo(f"onnx_ocs {package_version('onnx-ocs')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            metavar="[-vv]",
            count=True,
            show_default=False,
            help="Log what is going on; twice: in detail.",
        ),
    ] = 0,
) -> None:
    """Win accuracy back in a quantized (QDQ) ONNX model: better steps and weights, extra channels.

    ```
    onnx-ocs inspect in.onnx --calib samples.npz             what is clipped, and what could be done
    onnx-ocs rewrite in.onnx out.onnx --calib samples.npz    all that is needed
    onnx-ocs VERB --help                                     more examples, and all options
    ```

    `python -m onnx_ocs` is the same.
    """
    start_logging(verbose)


for verb in VERBS:
    app.command(verb.name)(verb.callback())


def main() -> None:
    """Run the command line; the user's mistakes become one line and exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a pipe that takes ASCII only is no reason to fail
    few_heaps()
    with _signals() as stopped:
        try:
            code = app(prog_name="onnx-ocs", standalone_mode=False)  # the script's name: shell completion is for it
            if code == 130:  # typer's word for Ctrl-C
                raise KeyboardInterrupt
        except Interrupted as e:
            code = _interrupted(e.args[0], stopped)
        except KeyboardInterrupt:
            code = _interrupted((), stopped)
        except Exception as e:  # libraries make their own errors of an interrupt: an import in C an ImportError
            code = _interrupted((), stopped) if stopped or isinstance(e, typer.Abort) else _told(e)
    sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Who ends a run by SIGTERM, or closes its terminal, gets what Ctrl-C gives; the signals that came."""
    came: list[int] = []

    def stop(number: int, _frame: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    usual = (signal.SIG_DFL, signal.default_int_handler)  # nohup ignores one
    numbers = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) in usual}
    for number in before:
        signal.signal(number, stop)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupted(published: Sequence[Path], signals: Sequence[int]) -> int:
    """Say what a run that was stopped has done; the exit code that a shell gives for the signal."""
    said = f"{', '.join(map(str, published))} had been written" if published else "nothing was written"
    typer.echo(printable(f"Interrupted: {said}."), err=True)
    return 128 + (signals[0] if signals else signal.SIGINT)


def _told(e: Exception) -> int:
    """Tell what the user can mend in one line; the exit code.  Any other error is raised."""
    if isinstance(e, (UserError, PassError)):
        return _complain(str(e))
    if isinstance(e, UsageError):  # it would exit with 2: that means "verification failed" here
        return 0 if type(e).__name__ == "NoArgsIsHelpError" else _complain(e.format_message())  # type: ignore[attr-defined]
    if why := shortage(e):
        return _complain(f"{why}; nothing was written")
    raise e


def _complain(message: str) -> int:
    line = " ".join(message.split())
    typer.echo("Error: " + printable(line if len(line) <= MOST else f"{line[:MOST]} …"), err=True)
    return 1
