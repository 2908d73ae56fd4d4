"""The record of a measurement: rows, Markdown tables, and the machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from softfree.core.environment import versions
from softfree_runtime.core.files import replacing, write_atomically


def write_record(
    path: Path,
    rows: pd.DataFrame,
    stated: Mapping[str, Any],
    *,
    machine: str,
    text: str | None = None,
    libraries: Sequence[str] = (),
) -> None:
    """Write ``path`` as CSV, and next to it machine and options as JSON and the tables as Markdown.

    Args:
        path: The CSV file; the others differ in the suffix.
        rows: What was measured.
        stated: The options. ``out`` is left out: it says where, not what.
        machine: One line, of :func:`~softfree.core.environment.describe_machine`.
        text: The tables; None leaves the Markdown out.
        libraries: Packages whose versions matter beside those that always do.
    """
    with replacing(path) as temporary:
        rows.to_csv(temporary, index=False, float_format="%.6g")
    options = {name: value for name, value in stated.items() if name != "out"}
    record = {
        "machine": machine,
        "versions": versions() | {name: version(name) for name in libraries},
        "options": options,
    }
    write_atomically(path.with_suffix(".json"), json.dumps(record, indent=2, default=str))
    if text is not None:
        write_atomically(path.with_suffix(".md"), text)
