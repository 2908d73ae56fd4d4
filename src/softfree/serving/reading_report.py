"""From readings to numbers: those of a reader study, or how often readers agreed; a task of a worker."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from softfree.evaluation.page import Grid, Page, Section, write_page
from softfree.evaluation.reader_page import notes_of, reader_sections
from softfree.evaluation.readers import Case, Decision, Twice, reader_study
from softfree.serving.readings import ALONE, REVIEW, WITH_MODEL
from softfree.serving.records import RenderResult
from softfree.serving.relabeling import of_target
from softfree_runtime.core.task import Task


def report(
    paths: Sequence[Path], *, readings: Sequence[Mapping[str, Any]], room: Mapping[str, Any], form: str
) -> RenderResult:
    """Compute the numbers; a task of a worker.

    Args:
        paths: None.
        readings: The last reading of each reader, case and phase.
        room: What :meth:`softfree.serving.room.Room.for_report` tells.
        form: ``json`` or ``html``.
    """
    found = numbers_of(readings, room)
    if form == "json":
        return RenderResult(json.dumps(found, allow_nan=False).encode(), "application/json")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        write_page(path, page_of(found, room))
        return RenderResult(path.read_bytes(), "text/html; charset=utf-8")


def numbers_of(readings: Sequence[Mapping[str, Any]], room: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``blinded``, ``cases``, ``targets`` (what was found about each) and ``notes`` on how.

    A target of a reader study has what :func:`softfree.evaluation.readers.reader_study` returns; other targets have
    ``readers`` with the numbers of their decisions.
    """
    if not room["blinded"]:
        return review(readings, room)
    studies = [study(readings, room, target) for target in room["targets"]]
    cases = {reading["row"] for reading in readings if reading["phase"] == WITH_MODEL}
    notes = notes_of([one["metric"] for one in studies])
    return {"blinded": True, "cases": len(cases), "targets": studies, "notes": notes}


def review(readings: Sequence[Mapping[str, Any]], room: Mapping[str, Any]) -> dict[str, Any]:
    """Count the decisions of readers who saw the model and the label."""
    own = [reading for reading in readings if reading["phase"] == REVIEW]
    targets = [{"target": target["name"], "readers": _decisions(own, target["name"])} for target in room["targets"]]
    return {"blinded": False, "cases": len({reading["row"] for reading in own}), "targets": targets, "notes": []}


def _decisions(readings: Sequence[Mapping[str, Any]], target: str) -> list[dict[str, Any]]:
    by_reader: dict[str, dict[str, Any]] = {}
    for reading in of_target(readings, target):
        counts = by_reader.setdefault(reading["reader"], {"agree": 0, "disagree": 0, "relabel": 0, "seconds": []})
        counts[reading["decision"]] += 1
        if reading["seconds"] is not None:
            counts["seconds"].append(reading["seconds"])
    return [
        {**counts, "reader": name, "seconds": float(np.median(counts["seconds"])) if counts["seconds"] else None}
        for name, counts in sorted(by_reader.items())
    ]


def study(readings: Sequence[Mapping[str, Any]], room: Mapping[str, Any], target: Mapping[str, Any]) -> dict[str, Any]:
    """Compare readers without and with the model in one target, on the cases whose label is known."""
    task, name = Task(kind=target["task"], classes=tuple(target["classes"])), target["name"]
    cases = dict(_cases(room, task, name))
    given = {(one["reader"], one["row"], one["phase"]): one for one in readings if one["row"] in cases}
    read: dict[str, dict[int, Twice]] = {}
    for reader, row, phase in sorted(given):
        if phase == WITH_MODEL and (reader, row, ALONE) in given:
            first, second = (_decision(given[reader, row, phase], name) for phase in (ALONE, WITH_MODEL))
            read.setdefault(reader, {})[row] = first, second
    return reader_study(task, cases, read, name)


def _cases(room: Mapping[str, Any], task: Task, name: str) -> Iterator[tuple[int, Case]]:
    for case in room["cases"]:
        answer = case["answers"][name]
        if case["status"] != "ok" or answer["truth"] is None or answer["row"] is None:
            continue
        row = answer["row"]
        model = float(row["value"]) if task.numeric else [float(row[f"p_{one}"]) for one in task.classes]
        yield case["row"], Case(case["patient"], answer["truth"], model)


def _decision(reading: Mapping[str, Any], target: str) -> Decision:
    label = reading["label"][target] if target else reading["label"]
    return Decision(label, reading["confidence"], reading["seconds"])


def page_of(found: Mapping[str, Any], room: Mapping[str, Any]) -> Page:
    """Return the numbers as a page."""
    if found["blinded"]:
        return Page(title="Reader study", notice=room["notice"],
                    sections=list(reader_sections(found["targets"], room["model"])))  # fmt: skip
    if not found["cases"]:
        return Page(title="Readings", notice=room["notice"], paragraphs=["No case has been read yet."])
    text = f"{found['cases']} cases were read with the label and the answer of {room['model']} in sight."
    return Page(title="Readings", notice=room["notice"], paragraphs=[text],
                sections=[_counted(target) for target in found["targets"]])  # fmt: skip


def _counted(target: Mapping[str, Any]) -> Section:
    rows = [(one["reader"], str(one["agree"]), str(one["disagree"]), str(one["relabel"]),
             "" if one["seconds"] is None else f"{one['seconds']:.0f}") for one in target["readers"]]  # fmt: skip
    title = f"Decisions: {target['target']}" if target["target"] else "Decisions"
    return Section(title=title, table=Grid(("Reader", "Agree", "Disagree", "Relabel", "Median seconds"), rows))
