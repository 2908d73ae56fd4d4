"""``softfree report``: all documents of a run or study in one folder."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from softfree.inference.run import Run
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
    if run.parts:
        return [
            path
            for name, part in run.parts.items()
            for path in write_documents(part, replace(options, out=None if options.out is None else options.out / name))
        ]
    folder = options.out or run.directory.documents
    formats = ("md", "html", "docx") if options.docx else ("md", "html")
    facts = Facts(run, options.evaluations)
    documents = [model_card(facts), methods(facts), TRIPOD_AI.fill(facts), CLAIM.fill(facts)]
    return [path for document in documents for path in document.write(folder, formats)]
