"""``softfree check TABLE --folder FOLDER``: the files of a large table, read by processes that may be interrupted."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from softfree.archive.bulk import Bulk, Given
from softfree.archive.options import CheckArchiveOptions
from softfree.archive.tasks.check import Check, probes_in
from softfree.data.audit.probe import Probe
from softfree.data.table import frame_numbers


def probe_archive(
    table: Path, frame: pd.DataFrame, options: CheckArchiveOptions, *, progress: bool
) -> list[Probe] | None:
    """Read the file of every row, and return the facts; None if some rows are left for another command.

    Args:
        table: The table.
        frame: Its rows, with a column ``file``.
        options: All settings; ``folder`` is set.
        progress: Whether to show a bar.

    Raises:
        UserError: Impossible options, or a folder that was begun with other files.
    """
    assert options.folder is not None
    task = Check(tuple(zip(frame["file"], frame_numbers(frame), strict=True)))
    outcome = Bulk(task, Given([str(table)], options.folder, progress=progress), options).run()
    if outcome.summary is not None:
        return probes_in(outcome.folder)
    print(f"{outcome.done:,} of {outcome.count:,} files were read; the same command goes on", file=sys.stderr)
    return None
