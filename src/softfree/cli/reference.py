"""The reference page of all options: ``python -m softfree.cli.reference`` writes ``docs/reference/options.md``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from softfree.cli.help import Argument, describe
from softfree.cli.parser import Command, Parser

PAGE = Path("docs/reference/options.md")
INTRODUCTION = """\
# Options

All commands of `softfree` with their arguments, as `softfree COMMAND --help` shows them. In Python and in YAML files
(`--config`), options have underscores instead of hyphens: `--layer-scale` is `layer_scale`. Lists and mappings are
written as in YAML, in quotes: `--shape '[48, 64, 48]'`.

This page is generated: `python -m softfree.cli.reference`.
"""


def reference(program: str, groups: Mapping[str, Mapping[str, Command]]) -> str:
    """Return the Markdown page of all commands and their options."""
    commands = [item for group in groups.values() for item in group.items()]
    sections = [section for name, command in commands for section in _command(f"{program} {name}", command)]
    return "\n".join([INTRODUCTION, *sections])


def _command(name: str, command: Command) -> list[str]:
    parser = Parser(prog=name, description=command.help, print_config=None)
    command.arguments(parser)
    parts = [f"## {name}\n", f"{command.help[0].upper()}{command.help[1:]}.\n"]
    for heading, arguments in describe(parser).items():
        rows = [_row(argument) for argument in arguments if "--help" not in argument.flags]
        if rows:
            parts += [f"**{heading}**\n", "| name | value | default | description |\n|---|---|---|---|", *rows, ""]
    return parts


def _row(argument: Argument) -> str:
    name = " ".join(f"`{flag}`" for flag in argument.flags.split(", "))
    values = f"`{argument.values}`" if argument.values else ""
    default = "required" if argument.required else f"`{argument.default}`" if argument.default else ""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in (name, values, default, argument.text)) + " |"


def main() -> int:
    """Write the page."""
    from softfree.cli.commands import COMMANDS

    PAGE.write_text(reference("softfree", COMMANDS), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
