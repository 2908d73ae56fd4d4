"""The command line: finds the verb, parses its arguments, and turns errors into one line and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from softfree import __version__
from softfree.errors import UserError
from softfree.verbs import VERBS, Parser

DESCRIPTION = "Compute-efficient medical image classification with softmax-free transformers."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; the exit status is 0, 1 (some rows failed, or problems found) or 2 (nothing could be done)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(given)
    except UserError as error:
        print(f"softfree: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("softfree: stopped by Ctrl-C", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _dispatch(given: list[str]) -> int:
    if given and given[0] in ("--version", "-V"):
        print(f"softfree {__version__}")
        return 0
    if not given or given[0] in ("--help", "-h"):
        print(_overview())
        return 0 if given else 2
    words = 2 if " ".join(given[:2]) in VERBS else 1
    name, rest = " ".join(given[:words]), given[words:]
    if name not in VERBS:
        from difflib import get_close_matches

        near = [verb for verb in VERBS if verb.startswith(f"{name} ")] or get_close_matches(name, VERBS, 1)
        hint = f"did you mean {' or '.join(near)}?" if near else f"expected one of: {', '.join(VERBS)}"
        raise UserError(f"{name} is not a command; {hint}")
    verb = VERBS[name]
    parser = Parser(prog=f"softfree {name}", description=verb.help, print_config=None)
    verb.arguments(parser)
    return verb.act(parser.parse_args(_normalise(rest, parser))) or 0


def _overview() -> str:
    width = max(map(len, VERBS))
    rows = "\n".join(f"  {name:{width}}  {verb.help}" for name, verb in VERBS.items())
    head = f"softfree {__version__}: {DESCRIPTION}\n\nusage: softfree COMMAND ..."
    return f"{head}\n\n{rows}\n\nsoftfree COMMAND --help explains a command."


def _normalise(arguments: list[str], parser: Parser) -> list[str]:
    """Accept --label-smoothing for --label_smoothing, and a bare --pictures for --pictures=true."""
    flags = {
        option
        for action in parser._actions
        if getattr(action, "_typehint", None) is bool
        for option in action.option_strings
    }
    result = []
    for number, argument in enumerate(arguments):
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            name = name.replace("-", "_").replace("__", "--", 1)
            following = arguments[number + 1].lower() if number + 1 < len(arguments) else ""
            if name in flags and not equals and following not in ("true", "false"):
                equals, value = "=", "true"
            argument = name + equals + value
        result.append(argument)
    return result


if __name__ == "__main__":
    sys.exit(main())
