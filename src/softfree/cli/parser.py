"""What the commands are made of: a parser that speaks our language, and arguments from options classes."""

from __future__ import annotations

import json
import re
from argparse import HelpFormatter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from softfree.core.ranges import check_ranges
from softfree_runtime.core.errors import UserError


class Parser(ArgumentParser):
    """A parser with hyphenated options, ``--flag/--no-flag`` for booleans, and errors in one line.

    Fields of options classes keep their underscores in Python and YAML; on the command line both spellings are
    understood.
    """

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
        """Parse arguments as people type them."""
        return super().parse_args(None if args is None else self._canonical(list(args)), *rest, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a UserError instead of printing the usage, which would hide the message."""
        text = " ".join(str(message).split())
        if wrong := re.match(r'Parser key "(\w+)": .*(?:Got|Given) value: (.*)$', text):
            raise UserError(self._wrong_value(*wrong.groups()))
        missing = text.partition("arguments are required: ")[2]
        if missing:
            typed = ", ".join(self._as_typed(name) for name in missing.split(", "))
            raise UserError(f"{self.prog} needs {typed}; see: {self.prog} --help")
        raise UserError(f"{text}; see: {self.prog} --help")

    def _wrong_value(self, name: str, value: str) -> str:
        from softfree.cli.help import expected

        action = next(action for action in self._actions if action.dest == name)
        return f"{self._as_typed(name)} {value}: expected {expected(action)}; see: {self.prog} --help"

    def _as_typed(self, name: str) -> str:
        is_option = any(action.dest == name and action.option_strings for action in self._actions)
        return f"--{name.replace('_', '-')}" if is_option else name.upper()

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        """Lay out the help in groups, for a terminal of up to 100 columns."""
        from softfree.cli.help import format_help

        return format_help(self)

    def flags(self) -> dict[str, str]:
        """Map each option as people type it, such as ``--no-progress``, to its name in the parser."""
        flags = {}
        for action in self._actions:
            for option in action.option_strings:
                if not option.endswith("+"):
                    flags[option.replace("_", "-")] = option
                if is_switch(action):
                    flags[f"--no-{option[2:]}".replace("_", "-")] = option
        return flags

    def _canonical(self, arguments: list[str]) -> list[str]:
        """Spell options as the parser knows them.

        A switch without a value becomes ``=true`` or ``=false``, a single value for a list a list, and a text that
        begins with a hyphen, such as ``-priority``, a part of its option.
        """
        flags, known_by = self.flags(), self._option_string_actions
        lists = {flag for flag, option in flags.items() if is_list(known_by[option])}
        texts = {flag for flag, option in flags.items() if is_text(known_by[option])}
        switches = {o for action in self._actions if is_switch(action) for o in action.option_strings}
        result: list[str] = []
        for number, argument in enumerate(arguments):
            before = arguments[number - 1].replace("_", "-") if number else ""
            if argument == "--":
                return result + arguments[number:]
            if argument.startswith("--"):
                typed, equals, value = argument.partition("=")
                flag = typed.replace("_", "-")
                if flag not in flags and not any(known.startswith(flag) for known in flags):
                    near = get_close_matches(flag, flags, 1)
                    raise UserError(
                        f"{typed} is not an option of {self.prog}; "
                        + (f"did you mean {near[0]}?" if near else f"see: {self.prog} --help")
                    )
                name = flags.get(flag, flag.replace("-", "_").replace("__", "--", 1))
                if flag in lists and equals and not value.startswith("["):
                    value = json.dumps([value])
                if name in switches and not equals:
                    following = arguments[number + 1].lower() if number + 1 < len(arguments) else ""
                    negated = name.replace("_", "-") != flag
                    if negated or following not in ("true", "false"):
                        equals, value = "=", "false" if negated else "true"
                argument = name + equals + value
            elif before in lists and not argument.startswith("["):
                argument = json.dumps([argument])
            elif before in texts and argument.startswith("-") and argument not in known_by:
                result[-1] += f"={argument}"
                continue
            result.append(argument)
        return result


def is_switch(action: Any) -> bool:
    """Whether an argument is a boolean."""
    return bool(action.option_strings) and getattr(action, "_typehint", None) is bool


def is_list(action: Any) -> bool:
    """Whether an argument is a list of texts or paths."""
    return getattr(action, "_typehint", None) in (list[str], list[Path])


def is_text(action: Any) -> bool:
    """Whether an argument is one text."""
    return getattr(action, "_typehint", None) in (str, str | None) and action.nargs is None


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        help: What it does, in a line.
        arguments: Adds its arguments to a parser.
        run: Does it, and returns the exit status (None for 0).
    """

    help: str
    arguments: Callable[[Parser], None]
    run: Callable[[Namespace], int | None]


def adder(kind: type) -> Callable[[Parser], None]:
    """Return a function that adds the fields of an options class as arguments."""
    return lambda parser: add_options(parser, kind)


def add_options(parser: Parser, kind: type, *, skip: Collection[str] = ("table",)) -> None:
    """Add the fields of an options class as arguments, one group for each class that it inherits from.

    Args:
        parser: To add to.
        kind: The options class.
        skip: Fields that are added elsewhere, such as a positional TABLE.
    """
    for group in kind.__mro__[:-1]:
        own = set(vars(group).get("__annotations__", ()))
        if own - set(skip):
            parser.add_class_arguments(group, None, skip=(names(group) - own) | (names(group) & set(skip)))


def names(group: type) -> set[str]:
    """Return the names of the fields of an options class."""
    assert is_dataclass(group)
    return {field.name for field in fields(group)}


def fill(kind: type, parsed: Namespace, **values: Any) -> Any:
    """Create an options object from the parsed arguments of the same names, or from ``values``; numbers are checked."""
    options = kind(**({name: parsed[name] for name in names(kind) if name in parsed} | values))
    check_ranges(options)
    return options


def add_table(parser: Parser, *, required: bool = True) -> None:
    """Add the table as a positional argument."""
    what = "CSV or Parquet file with one row per image, or a folder with one subfolder per class."
    parser.add_argument("table", nargs=None if required else "?", type=str, help=what)


def add_json(parser: Parser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", type=bool, default=False, help="Print the result as JSON.")
