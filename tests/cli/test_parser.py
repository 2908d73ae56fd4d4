"""Options as people type them: hyphens, switches, mistakes, and help that can be read."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from softfree.cli.commands import COMMANDS
from softfree.cli.help import WIDTH, describe
from softfree.cli.parser import Parser, add_options, add_table
from softfree_lab.commands import COMMANDS as LAB_COMMANDS
from softfree_runtime.core.errors import UserError

ALL = {
    name: command for groups in (COMMANDS, LAB_COMMANDS) for group in groups.values() for name, command in group.items()
}


@dataclass(kw_only=True)
class Base:
    """Shared.

    Attributes:
        no_scale: A switch whose own name begins with no.
        size: Side of the image.
    """

    no_scale: bool = False
    size: int | None = None


@dataclass(kw_only=True)
class Options(Base):
    """Own.

    Attributes:
        show_maps: A switch.
        drop_path: A number.
        kind: One of two.
        sides: Several.
        order: A column.
        out: A path.
    """

    out: Path
    show_maps: bool = True
    drop_path: float = 0.1
    kind: Literal["a", "b"] = "a"
    sides: list[int] = field(default_factory=lambda: [1, 2])
    order: str | None = None


@pytest.fixture
def parser() -> Parser:
    parser = Parser(prog="softfree try", description="try it", print_config=None)
    add_table(parser)
    add_options(parser, Options)
    return parser


@pytest.mark.parametrize(
    ("typed", "name", "value"),
    [
        (["--drop-path", "0.5"], "drop_path", 0.5),
        (["--drop_path=0.5"], "drop_path", 0.5),
        (["--drop-p", "0.5"], "drop_path", 0.5),
        (["--no-show-maps"], "show_maps", False),
        (["--no_show_maps"], "show_maps", False),
        (["--no-show-maps", "--show-maps"], "show_maps", True),
        (["--show-maps", "false"], "show_maps", False),
        (["--show-maps=False"], "show_maps", False),
        (["--no-scale"], "no_scale", True),
        (["--no-no-scale"], "no_scale", False),
        (["--sides", "[3]"], "sides", [3]),
        (["--order", "-priority"], "order", "-priority"),
        (["--order=-priority"], "order", "-priority"),
    ],
    ids=str,
)
def test_options_as_typed(parser: Parser, typed: list[str], name: str, value: Any) -> None:
    parsed = parser.parse_args(["t.csv", "--out", "x", *typed])
    assert (parsed[name], parsed.table) == (value, "t.csv")


def test_a_switch_does_not_swallow_what_follows(parser: Parser) -> None:
    for switch in ("--show-maps", "--no-show-maps"):
        assert parser.parse_args(["--out", "x", switch, "t.csv"]).table == "t.csv"
    assert parser.parse_args(["--out", "x", "--", "--odd.csv"]).table == "--odd.csv"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--drop-pth", "1"], "--drop-pth is not an option of softfree try; did you mean --drop-path?"),
        (["--zzzz"], "--zzzz is not an option of softfree try; see: softfree try --help"),
        (["--size", "big"], "--size big: expected a whole number; see"),
        (["--drop-path", "much"], "--drop-path much: expected a number; see"),
        (["--kind", "c"], "--kind c: expected {a,b}; see"),
        (["--order", "-h"], "argument --order: expected one argument; see"),
        (["--out", "-x"], "argument --out: expected one argument; see"),
        (["--show-maps=perhaps"], "--show-maps perhaps: expected true or false; see"),
    ],
    ids=str,
)
def test_mistakes_are_told_as_typed(parser: Parser, typed: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        parser.parse_args(["t.csv", "--out", "x", *typed])
    assert str(raised.value).startswith(message)


def test_what_is_missing_is_named_as_typed(parser: Parser) -> None:
    with pytest.raises(UserError, match="softfree try needs TABLE, --out; see: softfree try --help"):
        parser.parse_args([])


def test_help_shows_groups_types_and_defaults(parser: Parser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert (
        parser.format_help()
        == """\
usage: softfree try TABLE --out PATH [OPTIONS]

Try it

Arguments:
  TABLE                     CSV or Parquet file with one row per image, or a folder with one
                            subfolder per class.

Own:
  --out PATH                A path.
  --show-maps, --no-show-maps
                            A switch. (default: on)
  --drop-path FLOAT         A number. (default: 0.1)
  --kind {a,b}              One of two. (default: a)
  --sides [INT, ...]        Several. (default: [1, 2])
  --order TEXT              A column.

Shared:
  --no-scale, --no-no-scale
                            A switch whose own name begins with no. (default: off)
  --size INT                Side of the image.

Other options:
  -h, --help                Show this help.
"""
    )


@pytest.mark.parametrize("name", ALL)
def test_the_help_of_every_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    parser = Parser(prog=f"softfree {name}", description=ALL[name].help, print_config=None)
    ALL[name].arguments(parser)
    assert max(map(len, parser.format_help().splitlines())) <= WIDTH
    for heading, arguments in describe(parser).items():
        assert len(heading) <= 60, "a short heading"
        for argument in arguments:
            assert "_" not in argument.flags
            assert argument.text.endswith("."), f"{argument.flags}: a sentence"
            assert not (argument.default and "default:" in argument.text), f"{argument.flags}: its default twice"
