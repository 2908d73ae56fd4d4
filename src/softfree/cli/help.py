"""The help of a command: its arguments in groups, with type and default."""

from __future__ import annotations

import shutil
from argparse import SUPPRESS
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill, wrap
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from softfree.cli.parser import Parser, is_switch

WIDTH = 100
COLUMN = 28
METAVARS = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH", Any: "VALUE"}
HEADINGS = {"positional arguments": "Arguments", "options": "Other options"}


@dataclass(frozen=True)
class Argument:
    """One argument of a command.

    Attributes:
        flags: As it is typed: ``TABLE``, ``--layer-scale`` or ``--tissue, --no-tissue``.
        values: What it takes, such as ``FLOAT`` or ``{pad,crop}``; empty for a switch.
        default: Its default in words; empty for none.
        required: Whether a command cannot do without it.
        text: Its description.
    """

    flags: str
    values: str
    default: str
    required: bool
    text: str


def describe(parser: Parser) -> dict[str, list[Argument]]:
    """Return the arguments of a command by the heading of their group, those of the command itself last."""
    groups = {
        HEADINGS.get(group.title or "", (group.title or "").rstrip(".")): [
            _argument(action) for action in group._group_actions if action.help != SUPPRESS
        ]
        for group in parser._action_groups
    }
    last = groups.pop(HEADINGS["options"], [])
    return {heading: arguments for heading, arguments in (groups | {HEADINGS["options"]: last}).items() if arguments}


def format_help(parser: Parser) -> str:
    """Lay out usage, description and groups."""
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    groups = describe(parser)
    positional = [argument.flags for argument in groups.get("Arguments", [])]
    needed = [
        f"{argument.flags} {argument.values}"
        for heading, arguments in groups.items()
        for argument in arguments
        if argument.required and heading != "Arguments"
    ]
    usage = " ".join([parser.prog, *positional, *needed, "[OPTIONS]"])
    lines = [fill(f"usage: {usage}", width, subsequent_indent="    ")]
    if parser.description:
        lines += ["", fill(parser.description[0].upper() + parser.description[1:], width)]
    for heading, arguments in groups.items():
        lines += ["", f"{heading}:"]
        for argument in arguments:
            lines += _lines(argument, width)
    return "\n".join(lines) + "\n"


def _lines(argument: Argument, width: int) -> list[str]:
    head = f"  {argument.flags} {argument.values}".rstrip()
    default = f"(default: {argument.default})".replace(" ", "\u00a0") if argument.default else ""
    indent = " " * COLUMN
    body = wrap(f"{argument.text} {default}", width, initial_indent=indent, subsequent_indent=indent) or [indent]
    body = [line.replace("\u00a0", " ") for line in body]
    if len(head) < COLUMN - 1:
        return [head.ljust(COLUMN) + body[0][COLUMN:], *body[1:]]
    return [head, *body]


def _argument(action: Any) -> Argument:
    several = "..." if action.nargs == "+" else ""
    flags = [option.replace("_", "-") for option in action.option_strings if not option.endswith("+")]
    values = metavar(_type(action)) + several
    if not flags:
        name = action.dest.upper() + several
        flags, values = [f"[{name}]" if action.nargs == "?" else name], ""
    elif is_switch(action):
        flags, values = [form for flag in flags for form in (flag, f"--no-{flag[2:]}")], ""
    elif action.nargs == 0:
        values = ""
    text = "Show this help." if "--help" in flags else " ".join((action.help or "").split())
    return Argument(", ".join(flags), values, _default(action), action.required, text)


def metavar(kind: Any) -> str:
    """Name what an option of a type takes, such as ``INT``, ``[TEXT, ...]`` or ``{pad,crop}``."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "{" + ",".join(map(str, parts)) + "}"
    if origin in (Union, UnionType):
        return "|".join(metavar(part) for part in parts if part is not NoneType)
    if origin is list:
        return f"[{metavar(parts[0])}, ...]"
    if origin is dict:
        return "{KEY: VALUE, ...}"
    return METAVARS.get(kind, "PATH")


def expected(action: Any) -> str:
    """Say in words what an option takes, for errors."""
    text = "true or false" if is_switch(action) else metavar(_type(action))
    for name, words in (("INT", "a whole number"), ("FLOAT", "a number"), ("TEXT", "text"), ("PATH", "a path")):
        text = words if text == name else text
    return text


def _type(action: Any) -> Any:
    return getattr(action, "_typehint", None) or action.type


def _default(action: Any) -> str:
    value = action.default
    if value in (None, SUPPRESS, [], {}):
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
