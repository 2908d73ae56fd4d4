"""The numbers of a reader study as sections of a page: tables, a figure, and how the numbers were computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from softfree.evaluation.page import Drawing, Grid, Section
from softfree.evaluation.plots import Pair, pairs

NAMES = {"auroc": "AUROC", "mae": "Mean absolute error"}
_DASH = "\u2014"
_BY_CONFIDENCE = (
    "AUROC of a reader: from the label and the confidence, which together give a probability for each class; a mean"
    " over classes if there are more than two. A reader's confidence from 0 to 1 stands for probabilities from that of"
    " a guess to 1."
)
_BY_NUMBER = "Mean absolute error: the mean distance of the reader's numbers from the labels; less is better."
_INTERVALS = (
    "95 % intervals. Of a reader: bias-corrected percentile bootstrap over patients, all cases of a patient drawn"
    " together, the same resamples without and with the model. Of the mean: Obuchowski and Rockette's, with Hillis's"
    " degrees of freedom and covariances from the same resamples; it holds for other readers and cases like these."
)
_MEAN = "The mean leaves out readers whose cases are all of one class."
_MODEL = "The model's number is that on the cases that were read. Not a medical device."


def notes_of(metrics: Sequence[str]) -> list[str]:
    """Say how the numbers of some studies by these metrics were computed."""
    own = [words for metric, words in (("auroc", _BY_CONFIDENCE), ("mae", _BY_NUMBER)) if metric in metrics]
    return [*own, _INTERVALS, *([_MEAN] if "auroc" in metrics else []), _MODEL]


def reader_sections(studies: Sequence[Mapping[str, Any]], model: str) -> Iterator[Section]:
    """Yield the sections about each target.

    Args:
        studies: What :func:`softfree.evaluation.readers.reader_study` found.
        model: Name of the model, for the text.
    """
    *others, last = studies
    for study in others:
        yield _section(study, model)
    notes = notes_of([study["metric"] for study in studies]) if any(study["readers"] for study in studies) else []
    yield replace(_section(last, model), notes=notes)


def _section(study: Mapping[str, Any], model: str) -> Section:
    title = f"Reader study: {study['target']}" if study["target"] else "Reader study"
    if not study["readers"]:
        return Section(title=title, paragraphs=["No case has been read to the end yet."])
    name = NAMES[study["metric"]]
    text = (f"{study['cases']} cases of {study['patients']} patients were read first without, then with the answer of"
            f" {model}. On these cases the model's own {_in_text(name)} is {in_words(study['model'])}.")  # fmt: skip
    if study["mean"]:
        text += f" {_of_mean(study)}"
    drawing = Drawing(f"{name} of the readers", pairs(list(_pairs(study)), f"{name} with 95 % interval",
                      ("alone", "with the model"), study["model"]["value"]),
                      "The vertical line is the model alone.")  # fmt: skip
    return Section(title=title, paragraphs=[text], drawings=[drawing], table=table_of(study))


def _in_text(name: str) -> str:
    return name if name.isupper() else name.lower()


def _of_mean(study: Mapping[str, Any]) -> str:
    """Say what the mean difference means."""
    difference, count = study["mean"]["difference"], study["mean"]["readers"]
    side = "higher" if difference["value"] >= 0 else "lower"
    words = f"The mean over {count} readers is {abs(difference['value']):.3f} {side} with the model than without it"
    if difference["low"] is None:
        return f"{words}; there is no interval: {difference['reason']}."
    interval = f"95 % interval of the difference {_cell(difference, sign='+')[1]}"
    if difference["low"] <= 0 <= difference["high"]:
        return f"{words} ({interval}). The interval contains 0: it may be chance."
    return f"{words} ({interval})."


def table_of(study: Mapping[str, Any]) -> Grid:
    """Return the table of a target: a row for each reader, and one for their mean."""
    rows = [*study["readers"], *([study["mean"] | {"reader": f"Mean of {study['mean']['readers']}"}]
            if study["mean"] else [])]  # fmt: skip
    nearer = ("Nearer to it", "Farther from it") if study["metric"] == "mae" else ("To the label", "Away from it")
    name = NAMES[study["metric"]]
    columns = ("Reader", f"{name} alone", "With the model", "Difference", "Changed their mind", *nearer,
               "Seconds alone", "With the model")  # fmt: skip
    return Grid(columns, [_row(one) for one in rows])


def _row(one: Mapping[str, Any]) -> list[str | tuple[str, str]]:
    return [
        (one["reader"], f"{one['cases']} cases") if "cases" in one else one["reader"],
        _cell(one["alone"]), _cell(one["with_model"]), _cell(one["difference"], sign="+"),
        _cell(one["changed"], percent=True), str(one.get("to_right", "")), str(one.get("to_wrong", "")),
        _cell(one["seconds_alone"], digits=0), _cell(one["seconds_with_model"], digits=0),
    ]  # fmt: skip


def _pairs(study: Mapping[str, Any]) -> Iterator[Pair]:
    for one in study["readers"]:
        yield Pair(one["reader"], _ends(one["alone"]), _ends(one["with_model"]))
    if study["mean"]:
        yield Pair("Mean", _ends(study["mean"]["alone"]), _ends(study["mean"]["with_model"]))


def _ends(number: Mapping[str, Any]) -> tuple[float, float, float]:
    value, low, high = (float("nan") if number[key] is None else number[key] for key in ("value", "low", "high"))
    return value, low, high


def _cell(number: Mapping[str, Any], *, percent: bool = False, digits: int = 3, sign: str = "") -> tuple[str, str]:
    """Return a number, and its interval or why it is missing."""
    if number["value"] is None:
        return _DASH, number["reason"] or ""
    value = _one(number["value"], percent, digits, sign)
    if number["low"] is None:
        return value, number["reason"] or ""
    return value, f"{_one(number['low'], percent, digits, sign)} to {_one(number['high'], percent, digits, sign)}"


def in_words(number: Mapping[str, Any], *, percent: bool = False, digits: int = 3, sign: str = "") -> str:
    """Say a number with its interval, such as ``0.912 (0.850 to 0.955)``."""
    value, interval = _cell(number, percent=percent, digits=digits, sign=sign)
    return value if number["low"] is None else f"{value} ({interval})"


def _one(value: float, percent: bool, digits: int, sign: str) -> str:
    text = f"{100 * value:.0f} %" if percent else f"{value:{sign}.{digits}f}"
    return text.replace("-", "−")
