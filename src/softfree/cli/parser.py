"""What the commands are made of: a parser with our errors, and arguments from options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from softfree_runtime.core.errors import UserError


class Parser(ArgumentParser):
    """A parser whose errors are one line on standard error and exit status 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong, without the usage that would hide it."""
        text = " ".join(str(message).split())
        raise UserError(f"{text}; see: {self.prog} --help")


@dataclass(frozen=True)
class Command:
    """A command: what it is for, its arguments, and what it does with the parsed ones."""

    help: str
    arguments: Callable[[Parser], None]
    run: Callable[[Namespace], int | None]


def add(*groups: type) -> Callable[[Parser], None]:
    """Arguments from options classes; a table is positional and added by itself."""

    def arguments(parser: Parser) -> None:
        for group in groups:
            parser.add_class_arguments(group, None, skip={"table"} if "table" in names(group) else set())

    return arguments


def names(group: type) -> set[str]:
    """Name the fields of an options class."""
    assert is_dataclass(group)
    return {field.name for field in fields(group)}


def fill(kind: type, parsed: Namespace, **given: Any) -> Any:
    """An options object from the parsed arguments of the same names."""
    values = {name: parsed[name] for name in names(kind) if name in parsed}
    return kind(**(values | given))


def add_table(parser: Parser, *, required: bool = True) -> None:
    """Take the table as a positional argument."""
    what = "CSV or Parquet file, one row an image, or a folder of classes."
    parser.add_argument("table", nargs=None if required else "?", type=str, help=what)


def add_json(parser: Parser) -> None:
    """Offer the result as JSON."""
    parser.add_argument("--json", type=bool, default=False, help="Print the result as JSON, for programs.")
