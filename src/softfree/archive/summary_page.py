"""The page about an archive."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from softfree.archive.folder import ArchiveFolder
from softfree.archive.task import Words
from softfree.evaluation.formatting import number, p_value
from softfree.evaluation.page import Cell, Drawing, Grid, Page, Section, write_page
from softfree.evaluation.plots.style import SERIES, figure, legend_below, styled

MANY = 24  # groups of a table; the others are only in summary.json
ODD = 0.10  # share of unusual images, twice the expected one, that is said first
FEWEST = 10  # images of a month in a figure
ENOUGH = 50  # images from which it is
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
    notice, share = None, summary["unusual"]
    if share is not None:
        paragraphs.append(
            f"{_percent(share)} of these images are unusual: farther from the training images than 95 % of images of"
            " their kind should be, so that about 5 % are expected."
        )
        if share > ODD and good >= ENOUGH:
            notice = (
                f"{_percent(share)} of the images are unlike those that the model was trained on. What it says about"
                f" them may be wrong; the column unusual of {folder.results.name} names them."
            )
    paragraphs.append(_made(folder))
    summary, scores = _one_of_two(summary, scores)
    sections = [_statuses(summary, words, folder.results.name)] if failed else []
    if scores:
        sections.append(_scores(summary, scores, reference))
    sections += [_groups(_TITLES[name], found, words) for name, found in summary["groups"].items()]
    write_page(folder.page, Page(title=words.title, notice=notice, paragraphs=paragraphs, sections=sections))


def _made(folder: ArchiveFolder) -> str:
    """Say what made the rows, and when."""
    identity = json.loads(folder.identity.read_text(encoding="utf-8")) if folder.identity.is_file() else {}
    model = f"Model {identity['model_digest'][:12]}, " if identity.get("model_digest") else ""
    version = f"softfree {identity['softfree_version']}, " if identity.get("softfree_version") else ""
    return f"{model}{version}finished {datetime.now(UTC):%Y-%m-%d}."


def _one_of_two(
    summary: Mapping[str, Any], scores: Mapping[str, np.ndarray]
) -> tuple[Mapping[str, Any], Mapping[str, np.ndarray]]:
    """Leave out the first of two classes that exclude each other: its probability is 1 minus that of the second."""
    targets: dict[str, list[str]] = {}
    for name in scores:
        target, _, column = name.rpartition(".")
        if column.startswith("p_"):
            targets.setdefault(target, []).append(name)
    twins = {
        names[0]
        for names in targets.values()
        if len(names) == 2 and abs(sum(summary["means"].get(name, np.nan) for name in names) - 1) < 1e-5
    }

    def kept(found: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in found.items() if name not in twins}

    groups = {
        kind: {value: {**own, "means": kept(own["means"])} for value, own in found.items()}
        for kind, found in summary["groups"].items()
    }
    return {**summary, "drift": kept(summary["drift"]), "groups": groups}, kept(scores)


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
    """Lay out months in their order, devices and sites by their number of images; those without come last."""
    largest = sorted(found, key=lambda value: -found[value]["rows"])[:MANY]
    chosen = sorted(largest, key=lambda value: (not value, value if title == _TITLES["month"] else ""))
    names = sorted({name for value in chosen for name in found[value]["means"]})[:4]
    has_unusual = any(found[value]["unusual"] is not None for value in chosen)
    means = [f"Mean {_name(name)[:1].lower()}{_name(name)[1:]}" for name in names]
    columns = ["", words.done.capitalize(), *(["Unusual"] if has_unusual else []), *means]
    rows: list[list[Cell]] = []
    for value in chosen:
        own = found[value]
        of_all = f" of {own['rows']:,}" if own["predicted"] < own["rows"] else ""
        row: list[Cell] = [value or "not said", f"{own['predicted']:,}{of_all}"]
        if has_unusual:
            row.append("" if own["unusual"] is None else _percent(own["unusual"]))
        row += [number(own["means"][name]) if name in own["means"] else "" for name in names]
        rows.append(row)
    more = len(found) - len(chosen)
    notes = ["From the headers of DICOM files; other files do not say."]
    if more:
        notes.append(f"{more:,} smaller ones are only in summary.json.")
    return Section(title=title, drawings=_by_month(found, names) if title == _TITLES["month"] else (),
                   table=Grid(columns, rows), notes=notes)  # fmt: skip


def _by_month(found: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> list[Drawing]:
    """Draw the mean scores of months with enough images, if there are three or more."""
    months = sorted(value for value in found if value and found[value]["predicted"] >= FEWEST)
    if len(months) < 3:
        return []
    drawings = []
    for name in names:
        what = f"Mean {_name(name)[:1].lower()}{_name(name)[1:]}"
        values = [found[month]["means"].get(name, np.nan) for month in months]
        caption = f"Months with {FEWEST} images or more."
        drawings.append(Drawing(f"{what} by month", line_by_month(what, months, values), caption))
    return drawings


@styled
def line_by_month(what: str, months: Sequence[str], values: Sequence[float]) -> Figure:
    """Draw a value by month; a month without images leaves its place empty."""
    drawing = figure(3.0)
    axes = drawing.subplots()
    places = [12 * int(month[:4]) + int(month[5:]) - 1 for month in months]
    axes.plot(places, values, marker="o", markersize=4, color=SERIES[0])
    ticks = [places[round(number)] for number in np.linspace(0, len(places) - 1, min(5, len(places)))]
    axes.set_xticks(ticks, [f"{place // 12}-{place % 12 + 1:02}" for place in ticks])
    axes.set(ylabel=what)
    return drawing


def _name(column: str) -> str:
    target, dot, name = column.rpartition(".")
    word = f"Probability of {name[2:]}" if name.startswith("p_") else name.capitalize()
    return f"{target}: {word}" if dot and not target.startswith("p_") else word


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
