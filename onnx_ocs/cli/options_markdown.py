"""`docs/options.md`, made from the option classes: `python -m onnx_ocs.cli.options_markdown > docs/options.md`."""

from __future__ import annotations

import sys
from dataclasses import MISSING
from pathlib import Path
from typing import Any, NamedTuple, get_args

from onnx_ocs.cli.app import VERBS
from onnx_ocs.cli.options import Flag, Verb, flags_of
from onnx_ocs.passes import PASSES
from onnx_ocs.planning.options import PlanOptions

__all__ = ["Row", "markdown", "option_table"]

HEAD = """# Options

Made from the code: `python -m onnx_ocs.cli.options_markdown > docs/options.md`. Do not edit.

`onnx-ocs VERB --help` says the same. Before the verb stand `--version` and `--verbose` (`-v`; `-vv` for details).
"""
PYTHON = """
## From Python

A flag is a field of a class. `compensate.budget` is the field `budget` of the pass `compensate`:
`Compensate(budget=0.2)` in Python, `--nbc-budget 0.2` on the command line. The planner's options are the fields of
`PlanOptions`.

| Field | Flag | Type | Default |
|---|---|---|---|
"""
WORDS = {bool: "yes or no", int: "integer", float: "number", str: "text", Path: "path"}


class Row(NamedTuple):
    """One option of one verb, as it is documented."""

    verb: str
    flag: str
    type: str
    default: str
    help: str


def option_table() -> list[Row]:
    """All options of all verbs, in the order of the help."""
    return [_row(verb, f) for verb in VERBS for f in verb.flags]


def markdown() -> str:
    """The text of `docs/options.md`."""
    parts = [HEAD]
    for verb in VERBS:
        arguments = " ".join(get_args(p.annotation)[1].metavar for p in verb.arguments)
        summary = (verb.run.__doc__ or "").splitlines()[0]
        parts.append(f"\n## {verb.name}\n\n`onnx-ocs {verb.name} {arguments}`: {summary}\n")
        parts.append("\n| Flag | Type | Default | What it does |\n|---|---|---|---|\n")
        parts += [_line(f"`{r.flag}`", r.type, r.default, r.help) for r in option_table() if r.verb == verb.name]
    parts.append(PYTHON)
    for name, kind in {**PASSES, PlanOptions.__name__: PlanOptions}.items():
        parts += [_line(f"`{name}.{f.field}`", f"`{f.name}`", _type(f), _default(f)) for f in flags_of(kind)]
    return "".join(parts)


def _row(verb: Verb, flag: Flag) -> Row:
    return Row(verb.name, ", ".join(flag.names), _type(flag), flag.option.shown or _default(flag), flag.option.help)


def _type(flag: Flag) -> str:
    """What a value can be, in words."""
    o = flag.option
    if o.counted:
        return "repeatable"
    kind = ", ".join(flag.choices) or " ".join(filter(None, (WORDS[flag.item], o.metavar)))
    many = "; repeatable" if flag.many else ""
    if o.low is None and o.high is None:
        return kind + many
    bounds = f"at least {o.low:g}" if o.high is None else f"{o.low:g} to {o.high:g}"
    return f"{kind}, {bounds}{many}"


def _default(flag: Flag) -> str:
    """The class's own default, in words."""
    value: Any = flag.default
    if value is MISSING:
        return "must be given"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return "all" if value and value == tuple(flag.choices.values()) else ", ".join(map(str, value))
    return "" if value is None or flag.option.counted else str(value)


def _line(*cells: str) -> str:
    escaped = (c.replace("|", r"\|").replace("*", r"\*").replace("[", r"\[") for c in cells)
    return f"| {' | '.join(escaped)} |\n"


def main() -> None:
    """Write the text to stdout."""
    sys.stdout.write(markdown())


if __name__ == "__main__":
    main()
