"""The page about an archive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from softfree.archive.folder import ArchiveFolder
from softfree.archive.task import Words
from softfree.evaluation.formatting import number, p_value
from softfree.evaluation.page import Cell, Drawing, Grid, Page, Section, write_page
from softfree.evaluation.plots.style import SERIES, figure, legend_below, styled

MANY = 24  # groups of a table; the others are only in summary.json
FIGURES = 8
_TITLES = {"month": "By month", "device": "By device", "site": "By site"}


def write_summary_page(
    folder: ArchiveFolder,
    words: Words,
    summary: Mapping[str, Any],
    scores: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
) -> None:
    """Write ``summary.html``: no names of files, which may be those of patients."""
    rows, good = summary["rows"], summary["statuses"].get("ok", 0)
    failed = rows - good
    paragraphs = [f"{good:,} of {rows:,} inputs were {words.done}" + (f"; {failed:,} were not." if failed else ".")]
    if summary["unusual"] is not None:
        paragraphs.append(
            f"{_percent(summary['unusual'])} of these images are unusual: farther from the training images than"
            " 95 % of images of their kind should be. Many more than 5 % mean that the archive differs from the"
            " training images."
        )
    sections = [_statuses(summary, words, folder.results.name)] if failed else []
    if scores:
        sections.append(_scores(summary, scores, reference))
    sections += [_groups(_TITLES[name], found, words) for name, found in summary["groups"].items()]
    write_page(folder.page, Page(title=words.title, paragraphs=paragraphs, sections=sections))


def _statuses(summary: Mapping[str, Any], words: Words, results: str) -> Section:
    rows: list[list[Cell]] = [
        [status, f"{count:,}", _percent(count / summary["rows"])]
        for status, count in summary["statuses"].items()
        if status != "ok"
    ]
    why = f"The column reason of {results} names each file and what is wrong with it."
    return Section(title=f"Not {words.done}", table=Grid(["Status", "Inputs", "Share"], rows), notes=[why])


def _scores(
    summary: Mapping[str, Any], scores: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> Section:
    shown = list(scores)[:FIGURES]
    drawings = [Drawing(_name(name), histogram(_name(name), scores[name], reference.get(name))) for name in shown]
    rows: list[list[Cell]] = []
    for name, values in scores.items():
        test = summary["drift"].get(name)
        row: list[Cell] = [_name(name), number(float(values.mean())) if len(values) else ""]
        row += [number(test["distance"]), p_value(test["p"])] if test else ["", ""]
        rows.append(row)
    notes = []
    if summary["drift"]:
        notes = [
            "Distance: the largest difference between the distribution of the scores here and among the samples that"
            " the run was evaluated on, from 0 to 1 (Kolmogorov and Smirnov).",
            "A difference is no error: the archive may hold other patients. With many images, p is small for"
            " differences that do not matter.",
        ]
    table = Grid(["Score", "Mean", "Distance", "p"], rows)
    return Section(title="Scores", drawings=drawings, table=table, notes=notes)


@styled
def histogram(name: str, values: np.ndarray, reference: np.ndarray | None) -> Figure:
    """Draw the share of images by score, and that of the samples that the run was evaluated on."""
    drawing = figure(3.0)
    axes = drawing.subplots()
    everything = values if reference is None else np.concatenate([values, reference])
    low, high = (0.0, 1.0) if name.startswith("Probability") else (everything.min(), everything.max())
    edges = np.linspace(low, high if high > low else low + 1, 21).tolist()
    axes.hist(values, edges, weights=np.full(len(values), 1 / len(values)), color=SERIES[0], alpha=0.6, label="archive")
    if reference is not None and len(reference):
        weights = np.full(len(reference), 1 / len(reference))
        axes.hist(reference, edges, weights=weights, histtype="step", color=SERIES[1], label="evaluation of the run")
        legend_below(axes, columns=2)
    axes.set(xlabel=name, ylabel="Share of images")
    return drawing


def _groups(title: str, found: Mapping[str, Mapping[str, Any]], words: Words) -> Section:
    chosen = sorted(found, key=lambda value: -found[value]["rows"])[:MANY]
    names = sorted({name for value in chosen for name in found[value]["means"]})[:4]
    has_unusual = any(found[value]["unusual"] is not None for value in chosen)
    columns = [
        "",
        "Inputs",
        words.done.capitalize(),
        *(["Unusual"] if has_unusual else []),
        *(f"Mean {_name(n)}" for n in names),
    ]
    rows: list[list[Cell]] = []
    for value in sorted(chosen):
        own = found[value]
        row: list[Cell] = [value or "not said", f"{own['rows']:,}", f"{own['predicted']:,}"]
        if has_unusual:
            row.append("" if own["unusual"] is None else _percent(own["unusual"]))
        row += [number(own["means"][name]) if name in own["means"] else "" for name in names]
        rows.append(row)
    more = len(found) - len(chosen)
    notes = ["From the headers of DICOM files; other files do not say."]
    return Section(
        title=title, table=Grid(columns, rows), notes=notes + ([f"{more:,} more are in summary.json."] * (more > 0))
    )


def _name(column: str) -> str:
    target, dot, name = column.rpartition(".")
    word = f"Probability of {name[2:]}" if name.startswith("p_") else name.capitalize()
    return f"{target}: {word}" if dot and not target.startswith("p_") else word


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
