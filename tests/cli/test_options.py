"""The generator: fields become flags, what is given comes back as instances, and a flag is described once."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import typer
from typer.testing import CliRunner

from onnx_ocs.cli.app import VERBS
from onnx_ocs.cli.inspect import INSPECT
from onnx_ocs.cli.options import Given, Verb, flags_of
from onnx_ocs.cli.rewrite import REWRITE
from onnx_ocs.options import Option, option, required
from onnx_ocs.passes import PASSES, Compensate, Split, Translate
from onnx_ocs.planning.options import PlanOptions

ROOT = Path(__file__).resolve().parents[2]
SHARED = Option("How many.", metavar="N", low=0, high=9)


@dataclass(frozen=True)
class Painted:
    """Options of every type."""

    where: Path = required("Where.", short="-w")
    many: int = option(3, SHARED)
    share: float | None = option(None, "Share.", flag="--the-share", low=0.0)
    colour: Literal["red", "dark blue"] = option("red", "Colour.")
    colours: tuple[Literal["red", "dark blue"], ...] = option(("red", "dark blue"), "Colours.")
    words: tuple[str, ...] = option((), "Words.", metavar="W")
    dry: bool = option(False, "Dry.")
    frame: bool = option(True, "Frame.")
    loud: int = option(0, "Loud.", short="-l", counted=True)
    hidden: object = None

    panel: ClassVar[str] = "Painting"


@dataclass(frozen=True)
class Counted:
    """Shares an option with another default."""

    many: int | None = option(None, SHARED)


def call(*args: str, kinds: tuple[type, ...] = (Painted, Counted), **more: Any) -> tuple[Any, Given]:
    """Run a verb with these options: typer's result, and what was given."""
    found: list[Given] = []

    def paint(given: Given) -> None:
        """Paint."""
        found.append(given)

    app = typer.Typer()
    app.command()(Verb(paint, kinds, **more).callback())
    result = CliRunner().invoke(app, [*args])
    return result, found[0] if found else Given((), {})


def test_nothing_given_leaves_the_defaults() -> None:
    result, given = call("-w", "x")
    assert result.exit_code == 0, result.output
    assert given.of(Painted) == {"where": Path("x")}
    assert given.make(Painted) == Painted(Path("x"))
    assert given.make(Counted) == Counted(None)
    assert given.unused() == []


@pytest.mark.parametrize(
    ("args", "fields"),
    [
        (["--many", "4"], {"many": 4}),
        (["--many", "3"], {"many": 3}),
        (["--the-share", "0.5"], {"share": 0.5}),
        (["--colour", "dark-blue"], {"colour": "dark blue"}),
        (["--colours", "dark-blue", "--colours", "red"], {"colours": ("dark blue", "red")}),
        (["--words", "a", "--words", "b"], {"words": ("a", "b")}),
        (["--dry"], {"dry": True}),
        (["--no-frame"], {"frame": False}),
        (["-ll"], {"loud": 2}),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_each_type(args: list[str], fields: dict[str, Any]) -> None:
    result, given = call("--where", "x", *args)
    assert result.exit_code == 0, result.output
    found = given.of(Painted)
    assert found == {"where": Path("x")} | fields
    assert all(type(found[k]) is type(v) for k, v in fields.items())  # plain values, no enums
    assert given.make(Painted, where=Path("y")) == replace(Painted(Path("y")), **fields)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "Missing option"),
        (["-w", "x", "--many", "10"], "Invalid value for '--many'"),
        (["-w", "x", "--many", "much"], "Invalid value for '--many'"),
        (["-w", "x", "--colour", "dark blue"], "'dark-blue'"),
        (["-w", "x", "--hidden", "1"], "No such option"),
        (["-w", "x", "--no-dry"], "No such option"),
    ],
)
def test_mistakes(args: list[str], message: str) -> None:
    result, _ = call(*args)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_help_shows_what_the_field_says() -> None:
    text = " ".join(call("--help")[0].output.split())
    assert "Painting" in text and "--the-share" in text and "[default: 3]" in text and "[default: red]" in text
    assert "N [0<=x<=9]" in text and "hidden" not in text


def test_a_shared_flag_goes_to_all_its_classes() -> None:
    _, given = call("-w", "x", "--many", "7")
    assert (given.make(Painted).many, given.make(Counted).many) == (7, 7)


def test_unused() -> None:
    _, given = call("-w", "x", "--many", "7", "--dry")
    given.make(Counted)
    assert [f.name for f in given.unused()] == ["--where", "--dry"]


def test_leaves_and_needs() -> None:
    assert "No such option" in call("--dry", leaves=("--dry", "--where"))[0].output
    assert "Missing option '--many'" in call("-w", "x", needs=("--many",))[0].output
    given = call("-w", "x", "--many", "1", needs=("--many",))[1]
    assert given.make(Painted).many == 1


def test_classes_that_disagree_about_a_flag() -> None:
    @dataclass(frozen=True)
    class Other:
        many: int = option(1, "Something else.")

    with pytest.raises(ValueError, match="Painted and Other disagree about --many"):
        _ = Verb(lambda given: None, (Painted, Other)).flags


def test_plain_metadata_will_do() -> None:
    """What a field says can be written without `option`."""
    from dataclasses import field

    @dataclass(frozen=True)
    class Plain:
        size: int = field(default=2, metadata={"help": "Size.", "flag": "--the-size"})

    (flag,) = flags_of(Plain)
    assert (flag.name, flag.default, flag.kind, flag.option.help) == ("--the-size", 2, int, "Size.")
    assert flags_of(int) == []


# ---- the options of onnx_ocs ----------------------------------------------------------------------------------------


def test_fields_of_one_name_keep_apart() -> None:
    """The budget of branches is not the plan's."""
    flags = {f.name: f for f in REWRITE.flags}
    assert (flags["--budget"].owner, flags["--nbc-budget"].owner) == (PlanOptions, Compensate)
    given = Given(REWRITE.flags, {"nbc_budget": 0.3, "nbc_form": ["low-rank"], "ratio": 0.2})
    assert given.make(Compensate) == Compensate(0.3, ("low rank",))
    assert given.make(Split) == Split(0.2)
    assert given.make(PlanOptions, budget=None) == PlanOptions(budget=None, ratio=0.2)


@dataclass(frozen=True)
class Polish:
    """Shines."""

    strength: float = option(0.5, "How much.", flag="--polish", low=0.0)
    cloth: str | None = option(None, "The input that says what counts.", metavar="INPUT")

    name: ClassVar[str] = "polish"
    version: ClassVar[str] = "1"


def test_a_field_that_is_no_option_does_not_take_the_flag_of_its_name() -> None:
    """`--target qnn` is no quality, and `--max-latency none` no number of a pass."""

    @dataclass(frozen=True)
    class Inner:
        depth: int = option(1, "Depth.")
        many: object = None

    given = Given(flags_of(Painted), {"many": 5})
    assert given.make(Inner) == Inner() and given.unused() != []


def test_a_new_pass_has_flags() -> None:
    """A pass needs no more than a place in `PASSES`, from which the kinds of `rewrite` are taken."""
    assert {*PASSES.values()} <= {*REWRITE.kinds}
    verb = replace(REWRITE, kinds=(*REWRITE.kinds, Polish))
    app = typer.Typer()
    app.command()(verb.callback())
    shown = " ".join(CliRunner().invoke(app, ["--help"], env={"COLUMNS": "160"}).output.split())
    assert "Polish" in shown and "--polish" in shown and "The input that says what counts." in shown
    given = Given(verb.flags, {"polish": 0.7, "cloth": "attention_mask"})
    assert given.make(Polish) == Polish(0.7, "attention_mask")


@pytest.mark.parametrize("verb", VERBS, ids=lambda v: v.name)
def test_each_flag_is_well_formed(verb: Verb) -> None:
    flags = verb.flags
    assert len({f.parameter for f in flags}) == len(flags)
    for f in flags:
        assert f.option.help[0].isalpha() and f.option.help.endswith("."), f
        assert f.option.low is None or f.default in (None, MISSING) or f.option.low <= f.default, f
        assert not f.choices or f.many or f.default in (None, *f.choices.values()), f


def test_defaults_that_help_says_in_words() -> None:
    shown = {f.name: f.option.shown for f in REWRITE.flags}
    assert shown["--copies"] == f"mass: {Translate().copies}, error: {PlanOptions().copies}"
    assert shown["--ratio"].startswith(f"{Translate().ratio} for mass") and Split().ratio == Translate().ratio
    assert shown["--budget"] == f"{PlanOptions().budget} with --calib"
    assert PlanOptions().rescale and shown["--rescale"].startswith("rescale")


def test_inspect_takes_what_translate_has() -> None:
    assert {f.name for f in flags_of(Translate)} <= {f.name for f in INSPECT.flags}


def test_option_classes_are_light() -> None:
    """`--help` waits for these modules: a pass must import what is heavy when it runs."""
    code = (
        "import sys, onnx_ocs.cli.app, onnx_ocs.passes, onnx_ocs.planning.options\n"
        "print([m for m in ('numpy', 'onnx', 'onnxruntime', 'torch', 'jinja2', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
