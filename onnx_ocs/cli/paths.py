"""What verbs take without a flag: the files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["In", "Original", "Out", "Rewritten"]

In = Annotated[Path, typer.Argument(metavar="IN", help="A quantized (QDQ) ONNX model.", show_default=False)]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="Where the result goes.", show_default=False)]
Original = Annotated[Path, typer.Argument(metavar="ORIGINAL", help="The model before.", show_default=False)]
Rewritten = Annotated[Path, typer.Argument(metavar="REWRITTEN", help="The model after.", show_default=False)]
