"""``softfree report``: all documents of a run or study in one folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from softfree.inference.run import Run
from softfree.inference.run_directory import RunDirectory
from softfree.reporting.documents.card import methods, model_card
from softfree.reporting.documents.checklists import CLAIM, TRIPOD_AI
from softfree.reporting.documents.facts import Facts
from softfree.reporting.options import ReportOptions
from softfree_runtime.core.errors import UserError


def write_documents(run: Run, options: ReportOptions) -> list[Path]:
    """Write model card, methods, TRIPOD+AI and CLAIM sheet, each as Markdown, HTML and DOCX; those of each target.

    Returns:
        The files.

    Raises:
        UserError: DOCX without python-docx, an evaluation that does not fit, or a folder that cannot be written.
    """
    if options.docx and find_spec("docx") is None:
        raise UserError("DOCX needs python-docx: pip install 'softfree[report]', or leave it out with --no-docx")
    runs = [(part, _options_of(name, options)) for name, part in run.parts.items()] or [(run, options)]
    known = [(Facts(part, own.evaluations), own.out) for part, own in runs]  # before anything is written
    formats = ("md", "html", "docx") if options.docx else ("md", "html")
    return [path for facts, out in known for path in _write(facts, out, formats)]


def _options_of(name: str, options: ReportOptions) -> ReportOptions:
    """Return the options for the documents of one of several targets: its folder, and its part of each evaluation."""
    evaluations = [RunDirectory(folder).target(name) for folder in options.evaluations]
    return replace(options, out=None if options.out is None else options.out / name, evaluations=evaluations)


def _write(facts: Facts, out: Path | None, formats: Sequence[str]) -> Iterator[Path]:
    for document in (model_card(facts), methods(facts), TRIPOD_AI.fill(facts), CLAIM.fill(facts)):
        yield from document.write(out or facts.run.directory.documents, formats)
