"""The command line of the laboratory."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from softfree.cli.main import run

DESCRIPTION = "Benchmarks and studies of softfree, for those who develop it or compare methods."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of softfree-lab."""
    from softfree_lab.commands import COMMANDS

    return run("softfree-lab", DESCRIPTION, COMMANDS, sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
