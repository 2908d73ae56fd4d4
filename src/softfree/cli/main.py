"""The command line: find the command, parse its arguments, and turn errors into one line and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from softfree import __version__
from softfree.cli.parser import Command, Parser
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.extras import missing_library

Groups = Mapping[str, Mapping[str, Command]]

DESCRIPTION = "Compute-efficient medical image classification with softmax-free transformers."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of softfree."""
    from softfree.cli.commands import COMMANDS

    return run("softfree", DESCRIPTION, COMMANDS, sys.argv[1:] if arguments is None else arguments)


def run(program: str, description: str, groups: Groups, arguments: Sequence[str]) -> int:
    """Run a command of a program; errors are one line on standard error.

    Args:
        program: Name of the program, for messages.
        description: What it is for, in a sentence.
        groups: Its commands by name, by heading.
        arguments: Without the program's own name.

    Returns:
        The exit status: 0, 1 (some rows failed, or problems were found) or 2 (nothing could be done).
    """
    try:
        return _dispatch(program, description, groups, list(arguments))
    except UserError as error:
        print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if (shown := missing_library(error)) is None:
            raise
        print(f"{program}: error: {shown}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: stopped by Ctrl-C", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _dispatch(program: str, description: str, groups: Groups, given: list[str]) -> int:
    commands = {name: command for group in groups.values() for name, command in group.items()}
    if given and given[0] in ("--version", "-V"):
        print(f"{program} {__version__}")
        return 0
    if not given or given[0] in ("--help", "-h"):
        print(_overview(program, description, groups))
        return 0 if given else 2
    words = 2 if " ".join(given[:2]) in commands else 1
    name, rest = " ".join(given[:words]), given[words:]
    if name not in commands:
        from difflib import get_close_matches

        near = [command for command in commands if command.startswith(f"{name} ")] or get_close_matches(
            name, commands, 1
        )
        hint = f"did you mean {' or '.join(near)}?" if near else f"expected one of: {', '.join(commands)}"
        raise UserError(f"{name} is not a command; {hint}")
    command = commands[name]
    parser = Parser(prog=f"{program} {name}", description=command.help, print_config=None)
    command.arguments(parser)
    return command.run(parser.parse_args(rest)) or 0


def _overview(program: str, description: str, groups: Groups) -> str:
    width = max(len(name) for group in groups.values() for name in group)
    lines = [f"{program} {__version__}: {description}", "", f"usage: {program} COMMAND ..."]
    for heading, group in groups.items():
        lines += ["", f"{heading}:", *(f"  {name:{width}}  {command.help}" for name, command in group.items())]
    return "\n".join([*lines, "", f"{program} COMMAND --help explains a command."])


if __name__ == "__main__":
    sys.exit(main())
