"""The command line: `python -m onnx_ocs inspect | rewrite | plan | verify`.

Exit codes: 0 done (also when there was nothing to rewrite); 1 the user's error, one clear message; 2 verification
failed, nothing was written; 3 the target was missed, the best was written.  Heavy imports wait until a verb runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from onnx_ocs.cli.inspect import INSPECT
from onnx_ocs.cli.outputs import Interrupted, start_logging
from onnx_ocs.cli.plan import PLAN
from onnx_ocs.cli.rewrite import REWRITE
from onnx_ocs.cli.verify import VERIFY
from onnx_ocs.errors import PassError, UserError

__all__ = ["VERBS", "app", "main"]

VERBS = (INSPECT, REWRITE, PLAN, VERIFY)
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
    """Give a quantized ONNX model one more bit where it matters: clipped outliers live on in extra channels.

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
    try:
        code = app(prog_name="onnx-ocs", standalone_mode=False)  # the script's name: shell completion is for it
        if code == 130:  # typer's word for Ctrl-C
            raise KeyboardInterrupt
    except (UserError, PassError) as e:
        code = _complain(str(e))
    except Interrupted as e:
        code = _interrupted(e.args[0])
    except (KeyboardInterrupt, typer.Abort):
        code = _interrupted(())
    except UsageError as e:  # they would exit with 2: that means "verification failed" here
        code = 0 if type(e).__name__ == "NoArgsIsHelpError" else _complain(e.format_message())  # type: ignore[attr-defined]
    sys.exit(code if isinstance(code, int) else 0)


def _interrupted(published: Sequence[Path]) -> int:
    """Say what a run that was stopped has done."""
    said = f"{', '.join(map(str, published))} had been written" if published else "nothing was written"
    typer.echo(f"Interrupted: {said}.", err=True)
    return 130


def _complain(message: str) -> int:
    typer.echo("Error: " + " ".join(message.split()), err=True)
    return 1
