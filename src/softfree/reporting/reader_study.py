"""The numbers of a reader study in the results of a run: a file, an entry of ``metrics.json``, a part of the report.

A later evaluation writes its results anew and takes the numbers over from the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softfree.evaluation.formatting import strict_json
from softfree.evaluation.reader_page import reader_sections
from softfree.evaluation.report import environment
from softfree.inference.run_directory import RunDirectory
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import write_atomically

ENTRY = "reader_study"
_START, _END = '<div id="reader-study">', "</div><!-- reader study -->\n"
_BEFORE = ("<section>\n<h2>Data</h2>", "<section>\n<h2>Commands</h2>", "<footer>")
"""Where the part goes in a report: before the first of these that it has."""


def write_reader_study(directory: RunDirectory, found: Mapping[str, Any]) -> list[Path]:
    """Write the numbers of a reader study to the results of a run or study, instead of earlier ones.

    Args:
        directory: Of the run.
        found: ``model`` (its name), ``cases``, ``targets`` and ``notes``, as
            :func:`softfree.evaluation.readers.reader_study` gives each target.

    Returns:
        The files that were written.

    Raises:
        UserError: The run has no report, or one that was edited.
    """
    for path in (directory.report, directory.metrics):
        if not path.is_file():
            raise UserError(f"{path} is missing; write it first: softfree evaluate {directory.root}")
    write_atomically(directory.reader_study, _as_json(found))
    _insert(directory, found)
    return [directory.reader_study, directory.metrics, directory.report]


def restore_reader_study(directory: RunDirectory) -> None:
    """Put the numbers of an earlier :func:`write_reader_study`, if there are any, into new results.

    Raises:
        UserError: The file is damaged.
    """
    path = directory.reader_study
    if not path.is_file():
        return
    try:
        _insert(directory, json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it, or write it again: softfree report"
                        f" {directory.root} --readings FILE") from None  # fmt: skip


def _insert(directory: RunDirectory, found: Mapping[str, Any]) -> None:
    metrics = json.loads(directory.metrics.read_text(encoding="utf-8"))
    part, page = _part(found), directory.report.read_text(encoding="utf-8")
    write_atomically(directory.metrics, _as_json({**metrics, ENTRY: found}))
    write_atomically(directory.report, _with_part(page, part, directory.report))


def _as_json(content: Mapping[str, Any]) -> str:
    return json.dumps(strict_json(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _part(found: Mapping[str, Any]) -> str:
    """Return the sections as HTML."""
    template = environment().get_template("section.html.j2")
    sections = reader_sections(found["targets"], found["model"])
    return _START + "".join(template.render(section=section) for section in sections) + _END


def _with_part(page: str, part: str, path: Path) -> str:
    """Return a page with the part, instead of the one that it may have."""
    before, start, rest = page.partition(_START)
    if start:
        _, end, after = rest.partition(_END)
        if end:
            return before + part + after
    anchor = next((anchor for anchor in _BEFORE if anchor in page), None)
    if start or anchor is None:
        raise UserError(f"{path} is not a report as softfree writes it; write it again: softfree evaluate")
    at = page.index(anchor)
    return page[:at] + part + page[at:]
