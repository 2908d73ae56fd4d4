"""The record of a benchmark or study: rows as CSV, tables as Markdown, the machine and options as JSON."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from softfree.core.environment import describe_machine, versions
from softfree_runtime.core.files import replacing, write_atomically

_ABSOLUTE = re.compile(r"(?<![^\[\s,'\"=])/(?:[^/\s,\]]+/)*")  # the folders of an absolute path in an argument


def write_csv(path: Path, rows: pd.DataFrame, float_format: str | None = None) -> None:
    """Write rows as CSV, atomically."""
    with replacing(path) as temporary:
        rows.to_csv(temporary, index=False, float_format=float_format)


def write_machine(folder: Path, **facts: Any) -> None:
    """Write ``machine.json``: the command, the versions, and ``facts`` about the machine; default: this machine.

    Files other than YAML, such as images, are not named in the command: their names may be those of patients. Nor are
    the folders of absolute paths, which belong to this machine.
    """
    command = shlex.join(["softfree-lab", *(_without_file_name(argument) for argument in sys.argv[1:])])
    record = {"command": command, **(facts or {"machine": describe_machine()}), "versions": versions()}
    write_atomically(folder / "machine.json", json.dumps(record, indent=2))


def _without_file_name(argument: str) -> str:
    path = Path(argument)
    if path.suffix not in (".yaml", ".yml") and path.is_file():
        return "FILE"
    return _ABSOLUTE.sub("", argument)


def write_record(
    path: Path,
    rows: pd.DataFrame,
    options: Mapping[str, Any],
    *,
    machine: str,
    text: str | None = None,
    libraries: Sequence[str] = (),
) -> None:
    """Write ``path`` as CSV, and next to it the machine and options as JSON and the tables as Markdown.

    Args:
        path: The CSV file; the others differ in the suffix.
        rows: The measurements.
        options: Options by name, recorded without ``out``.
        machine: One line from :func:`~softfree.core.environment.describe_machine`.
        text: The tables; None for no Markdown file.
        libraries: Packages whose versions are recorded in addition to the usual ones.
    """
    write_csv(path, rows, "%.6g")
    record = {
        "machine": machine,
        "versions": versions() | {name: version(name) for name in libraries},
        "options": {name: value for name, value in options.items() if name != "out"},
    }
    write_atomically(path.with_suffix(".json"), json.dumps(record, indent=2, default=str))
    if text is not None:
        write_atomically(path.with_suffix(".md"), text)


def markdown_table(columns: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """Lay out rows as a Markdown table."""
    names = list(map(str, columns))
    lines = [names, *(list(map(str, row)) for row in rows)]
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|---" * len(names) + "|", *body]) + "\n"


def to_stderr(line: str) -> None:
    """Print a line of progress to standard error."""
    print(line, file=sys.stderr)
