"""The nearest cases in the terminal, as CSV, and as a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment
from rich.console import Console
from rich.table import Table

from softfree.embeddings.similar import FIXED, Answer
from softfree.evaluation.report import environment
from softfree.reporting.thumbnails import thumbnail
from softfree_runtime.core.files import write_atomically
from softfree_runtime.sources.sample_source import SampleSource, files_of


def print_answers(answers: Sequence[Answer]) -> None:
    """Print a table for each image."""
    console = Console(markup=False)
    for answer in answers:
        if answer.status != "ok":
            continue
        table = Table(title=f"Nearest to {_named(answer.path, answer.frame)}", title_justify="left")
        columns = columns_of(answers)
        for name in columns:
            table.add_column(name, overflow="fold", justify="right" if name in FIXED[:2] else "left")
        for row in answer.to_dict()["neighbors"]:
            table.add_row(*(_shown(row.get(name)) for name in columns))
        console.print(table)


def write_answers(path: Path, answers: Sequence[Answer]) -> None:
    """Write a CSV file with a row for each case that was found, and one for each image that could not be read."""
    columns = columns_of(answers)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    with_frames = any(answer.frame is not None for answer in answers)
    writer.writerow(["query", *(["query_frame"] if with_frames else []), "status", "reason", *columns])
    for answer in answers:
        own = [answer.path, *([answer.frame] if with_frames else []), answer.status, answer.reason]
        rows = answer.to_dict()["neighbors"] or [{}]
        writer.writerows([*own, *("" if row.get(name) is None else row.get(name) for name in columns)] for row in rows)
    write_atomically(path, text.getvalue())


def columns_of(answers: Sequence[Answer]) -> list[str]:
    """Return the names of all columns, those of the inputs' table last."""
    further = dict.fromkeys(name for answer in answers for one in answer.neighbors for name in one.values)
    with_frames = any(one.frame is not None for answer in answers for one in answer.neighbors)
    return [*(FIXED if with_frames else FIXED[:-1]), *further]


def write_similar_page(path: Path, answers: Sequence[Answer], *, images: bool) -> None:
    """Write a page with the nearest cases of each image.

    Args:
        path: HTML file.
        answers: The cases.
        images: Show thumbnails.
    """
    columns = [name for name in columns_of(answers) if name not in FIXED]
    shown: list[dict[str, Any]] = []
    for answer in answers:
        cases = [
            {"distance": f"{one.distance:.3g}", "path": _named(one.path, one.frame),
             "png": _png(one.source, one.frame) if images else None,
             "values": [(name, _shown(one.values.get(name))) for name in columns]}
            for one in answer.neighbors
        ]  # fmt: skip
        png = _png(answer.source, answer.frame) if images and answer.status == "ok" else None
        shown.append({"path": _named(answer.path, answer.frame), "reason": answer.reason, "ok": answer.status == "ok",
                      "png": png, "cases": cases})  # fmt: skip
    templates: Environment = environment()
    write_atomically(path, templates.get_template("similar.html.j2").render(answers=shown, images=images))


def _named(path: str, frame: int | None) -> str:
    return path if frame is None else f"{path}, frame {frame}"


def _png(source: SampleSource, frame: int | None) -> bytes | None:
    """Return a thumbnail of the first image of a sample, in its frame; None if it has none."""
    return thumbnail(files_of(source)[0].path, frame, 224)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
