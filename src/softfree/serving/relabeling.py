"""The table with the labels that readers gave."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from softfree.serving.records import RenderResult


def export_table(
    paths: Sequence[Path], *, targets: Sequence[Mapping[str, Any]], readings: Sequence[Mapping[str, Any]]
) -> RenderResult:
    """Return the table with the labels that the readers gave, as CSV; a task of a worker.

    A label is replaced where more readers gave this new one than any other, the old one included. The columns
    ``reading``, ``reading_label``, ``reading_note``, ``read_by`` and ``read_at`` say what was decided.

    Args:
        paths: The table.
        targets: ``name`` (empty if there is only one) and ``labels``, the columns with its labels, of each target.
        readings: The last reading of each reader and case: ``row``, ``reader``, ``decision``, ``label``, ``note`` and
            ``at``.
    """
    from softfree.data.table_file import read_table_file

    (path,) = paths
    columns = [label for target in targets for label in target["labels"]]
    table = read_table_file(path, {"path", "patient_id", "split", "frame", "case_id", *columns})
    frame = table.frame.astype(object).where(table.frame.notna(), "")
    by_row: dict[int, list[Mapping[str, Any]]] = {}
    for reading in readings:
        by_row.setdefault(int(reading["row"]), []).append(reading)
    for name in ("reading", "reading_label", "reading_note", "read_by", "read_at"):
        frame[name] = ""
    for row, given in by_row.items():
        if row not in frame.index:
            continue
        rows = [row]
        if "case_id" in frame and (case := frame.at[row, "case_id"]):
            rows = list(frame.index[frame["case_id"] == case])
        decisions = set()
        for target in targets:
            decision, label = decided(of_target(given, target["name"]))
            decisions.add(decision)
            for name, value in _cells(target["labels"], label).items():
                frame.loc[rows, name] = value
        told = [reading["label"] for reading in given if reading["label"] is not None]
        frame.loc[rows, "reading"] = next(one for one in _BY_WEIGHT if one in decisions)
        frame.loc[rows, "reading_label"] = "; ".join(dict.fromkeys(in_words(label) for label in told))
        frame.loc[rows, "reading_note"] = "; ".join(harmless(str(one["note"])) for one in given if one["note"])
        frame.loc[rows, "read_by"] = "; ".join(harmless(str(one["reader"])) for one in given)
        frame.loc[rows, "read_at"] = max(str(one["at"]) for one in given)
    return RenderResult(frame.to_csv(index=False).encode(), "text/csv; charset=utf-8")


_BY_WEIGHT = ("readers disagree", "relabel", "disagree", "agree")
"""What is said about a case of several targets: the first that holds for one of them."""


def of_target(readings: Iterable[Mapping[str, Any]], name: str) -> Iterator[Mapping[str, Any]]:
    """Yield readings as readings of one target; who gave new labels to others agrees with the label of this one."""
    for reading in readings:
        if not name or reading["decision"] != "relabel":
            yield reading
        elif name in reading["label"]:
            yield {**reading, "label": reading["label"][name]}
        else:
            yield {**reading, "decision": "agree", "label": None}


def decided(readings: Iterable[Mapping[str, Any]]) -> tuple[str, Any]:
    """Return what the readers decided about a case together, and the new label or None.

    Each reader has a vote: for the old label, for a new one, or against the old one without a new one. If two of these
    have equally many, the label stays.
    """
    votes = Counter(
        (reading["decision"], json.dumps(reading["label"], sort_keys=True) if reading["decision"] == "relabel" else "")
        for reading in readings
    )
    (first, most), *others = votes.most_common()
    if others and others[0][1] == most:
        return "readers disagree", None
    decision, label = first
    return decision, json.loads(label) if label else None


def _cells(labels: Sequence[str], label: Any) -> dict[str, Any]:
    if label is None:
        return {}
    if isinstance(label, dict):
        return {name: "" if value is None else int(value) for name, value in label.items()}
    return {labels[0]: _plain(label)}


def _plain(label: Any) -> str:
    """Return a class or a number as text; whole numbers without a point."""
    return str(label).removesuffix(".0") if isinstance(label, float) else str(label)


def in_words(label: Any) -> str:
    """Say a label on one line."""
    if not isinstance(label, dict):
        return _plain(label)
    return ", ".join(f"{name}={'?' if value is None else in_words(value)}" for name, value in label.items())


def harmless(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
