"""The command line's options, made from the fields of option classes (`onnx_ocs.options`).

A verb names the classes whose options it takes.  Each field becomes a flag; classes that share a field's `Option`
share the flag.  What the user gave goes back into the classes by `Given`: a class's own default holds where the user
said nothing, so type, default and help stand in the field and nowhere else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import StrEnum
from inspect import Parameter, Signature, signature
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import typer

from onnx_ocs.options import Option

__all__ = ["Flag", "Given", "Verb", "flags_of"]

T = TypeVar("T")
UNSAID = ("DEFAULT", "DEFAULT_MAP")  # where a value comes from that the user did not give


@dataclass(frozen=True)
class Flag:
    """One option of a verb.

    Attributes:
        name: "--nbc-budget".
        field: the name of its field: "budget".
        kind: the field's type, without None.
        default: the field's default; `MISSING` where it must be given.
        option: what is said of it.
        owner: the class that has the field.
    """

    name: str
    field: str
    kind: Any
    default: Any
    option: Option
    owner: type

    @property
    def parameter(self) -> str:
        """Its name as a parameter: "nbc_budget"."""
        return _parameter(self.name)

    @property
    def names(self) -> list[str]:
        """All that it is called: a switch that is on by default can be turned off."""
        both = f"{self.name}/--no-{self.name.removeprefix('--')}" if self.kind is bool and self.default else self.name
        return [both, self.option.short] if self.option.short else [both]

    @property
    def item(self) -> Any:
        """The type of its value, of each value where it can be given more than once."""
        return get_args(self.kind)[0] if self.many else self.kind

    @property
    def many(self) -> bool:
        """Whether it can be given more than once."""
        return get_origin(self.kind) is tuple

    @property
    def choices(self) -> dict[str, Any]:
        """The values that it can have, by how they are spelled: a word instead of a phrase."""
        return {str(v).replace(" ", "-"): v for v in get_args(self.item)} if get_origin(self.item) is Literal else {}

    def as_parameter(self) -> Parameter:
        """The parameter from which typer makes the option."""
        o, default = self.option, self.default
        kind: Any = self.item
        if self.choices:
            make: Any = StrEnum
            kind = make("Choice", {c.replace("-", "_"): c for c in self.choices})
            default = next((kind(c) for c, v in self.choices.items() if v == self.default), self.default)
        if self.many:
            kind, default = list[kind], None
        told = typer.Option(
            *self.names,
            help=o.help,
            metavar=o.metavar or None,
            min=o.low,
            max=o.high,
            show_default=o.shown or not o.counted,
            rich_help_panel=o.panel or getattr(self.owner, "panel", self.owner.__name__),
            count=o.counted,
        )
        if default is None:
            kind = kind | None
        return Parameter(
            self.parameter,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if default is MISSING else default,
            annotation=Annotated[kind, told],
        )

    def value(self, parsed: Any) -> Any:
        """The field's value, from what typer has parsed."""
        if self.many:
            return tuple(self._one(v) for v in parsed or ())
        return self._one(parsed)

    def _one(self, parsed: Any) -> Any:
        return self.choices.get(parsed, parsed)


def flags_of(kind: type) -> list[Flag]:
    """The options of a class, in the order of its fields.

    Args:
        kind: a dataclass; of another class there are none.
    """
    return [
        Flag(_flag(f), f.name, _type(kind, f.name), f.default, Option(**f.metadata), kind)
        for f in _fields(kind)
        if "help" in f.metadata
    ]


def _fields(kind: type) -> Sequence[Field[Any]]:
    return fields(kind) if is_dataclass(kind) else ()


def _flag(field: Field[Any]) -> str:
    name: str = field.metadata.get("flag") or "--" + field.name.replace("_", "-")
    return name


def _parameter(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def _type(kind: type, field: str) -> Any:
    """A field's type without None.  Only this field's: others may name types that are not imported at run time."""
    home = next(c for c in kind.__mro__ if field in vars(c).get("__annotations__", {}))
    alone = SimpleNamespace(__annotations__={field: home.__annotations__[field]})
    found = get_type_hints(alone, vars(sys.modules[home.__module__]))[field]
    if get_origin(found) in (Union, UnionType):
        (found,) = (a for a in get_args(found) if a is not NoneType)
    return found


class Given:
    """What the user gave to a verb."""

    def __init__(self, flags: Sequence[Flag], values: Mapping[str, Any]) -> None:
        """Remember what was given.

        Args:
            flags: the verb's options.
            values: of those that the user gave, by parameter.
        """
        self._flags = {f.parameter: f for f in flags}
        self._values = {k: self._flags[k].value(v) for k, v in values.items()}
        self._used: set[str] = set()

    def value(self, flag: str) -> Any:
        """The value that the user gave for a flag, such as "--ratio"; None where it was not given."""
        return self._values.get(_parameter(flag))

    def of(self, kind: type) -> dict[str, Any]:
        """The fields of a class that the user gave a value; by name in a class without any `option` (of others)."""
        named = [f for f in _fields(kind) if "help" in f.metadata] or _fields(kind)
        found = {f.name: _parameter(_flag(f)) for f in named}
        found = {k: p for k, p in found.items() if p in self._values}
        self._used |= {*found.values()}
        return {k: self._values[p] for k, p in found.items()}

    def make(self, kind: type[T], **more: Any) -> T:
        """An instance of a class with what the user gave.

        Args:
            kind: an option class.
            **more: fields that are decided otherwise.
        """
        return kind(**{**self.of(kind), **more})

    def unused(self) -> list[Flag]:
        """The options that were given, but that no class was made with."""
        return [f for k, f in self._flags.items() if k in self._values and k not in self._used]


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Attributes:
        run: called with the verb's arguments and `given`; its name and docstring are the verb's.
        kinds: the classes whose options it takes.
        leaves: flags of these classes that it does not take.
        needs: flags that must be given.
    """

    run: Callable[..., None]
    kinds: Sequence[type]
    leaves: Collection[str] = ()
    needs: Collection[str] = ()

    @property
    def name(self) -> str:
        """What it is called."""
        return self.run.__name__

    @property
    def arguments(self) -> list[Parameter]:
        """What it takes without a flag."""
        return [p for p in signature(self.run, eval_str=True).parameters.values() if p.name != "given"]

    @property
    def flags(self) -> list[Flag]:
        """Its options; one that several classes share stands once.

        Raises:
            ValueError: two classes say different things of one flag.
        """
        found: dict[str, Flag] = {}
        for f in (f for kind in self.kinds for f in flags_of(kind)):
            first = found.setdefault(f.name, f)
            if (first.option, first.item) != (f.option, f.item):
                raise ValueError(f"{first.owner.__name__} and {f.owner.__name__} disagree about {f.name}")
        return [_needed(f) if f.name in self.needs else f for n, f in found.items() if n not in self.leaves]

    def callback(self) -> Callable[..., None]:
        """The function that typer makes the command of."""
        flags, arguments = self.flags, self.arguments

        def call(context: typer.Context, **values: Any) -> None:
            said = {f.parameter for f in flags if _said(context, f.parameter)}
            given = Given(flags, {k: values[k] for k in said})
            self.run(**{p.name: values[p.name] for p in arguments}, given=given)

        first = Parameter("context", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        taken = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in arguments]
        parameters = [first, *taken, *(f.as_parameter() for f in flags)]
        call.__name__, call.__doc__ = self.name, self.run.__doc__
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        call.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        return call


def _needed(flag: Flag) -> Flag:
    return Flag(flag.name, flag.field, flag.kind, MISSING, flag.option, flag.owner)


def _said(context: typer.Context, parameter: str) -> bool:
    source = context.get_parameter_source(parameter)
    return source is not None and source.name not in UNSAID
