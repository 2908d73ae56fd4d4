"""The reading room: test and out-of-fold cases, what readers decide about them, and the numbers of a reader study."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from softfree.serving import readings
from softfree.serving.api import ERRORS, Client, TheService
from softfree.serving.errors import Conflict, Forbidden, Invalid, NotFound
from softfree.serving.readings import ALONE, REVIEW, WITH_MODEL, Reading
from softfree.serving.records import RenderTask, Sample
from softfree.serving.relabeling import harmless
from softfree.serving.room import Room, matches, order
from softfree.serving.security import Guard
from softfree.serving.viewing import Shown, add_views, shown_sample

router = APIRouter(prefix="/v1", responses=ERRORS, tags=["reading room"])
_NAME = Query(max_length=100, description="Name of the reader, on a server without tokens")
_LIMIT = 200


def room_of(service: TheService) -> Room:
    """Return the reading room: a dependency; NotFound without one."""
    if service.room is None:
        raise NotFound("this server has no reading room; start it with --cases TABLE")
    return service.room


async def reader_of(request: Request, who: Client, reader: Annotated[str, _NAME] = "") -> str:
    """Return who reads: a dependency. Where clients sign on, nobody can read in another's name."""
    guard: Guard = request.app.state.guard
    name = "".join(letter for letter in reader if letter.isprintable()).strip()
    return (name or who) if guard.is_open else who


TheRoom = Annotated[Room, Depends(room_of)]
Reader = Annotated[str, Depends(reader_of)]


class ReadingIn(BaseModel):
    """A decision."""

    model_config = ConfigDict(extra="forbid")

    decision: Literal["agree", "disagree", "relabel", "label"] = Field(
        description="With the model in sight: agree or disagree with the table's label, or relabel. Blinded: label."
    )
    label: str | float | dict[str, Any] | None = Field(
        default=None,
        description="A class, or a number; of findings 1, 0 or null for each; of several targets a label for each, or"
        " for those that the reader would label otherwise.",
    )
    confidence: float | None = Field(
        default=None, ge=0, le=1, description="0 a guess, 1 certain; needed if blinded, but for numbers."
    )
    note: str = Field(default="", max_length=2000)
    seconds: float | None = Field(default=None, ge=0, le=86_400, description="Time that the case was looked at.")


@router.get("/cases")
async def cases(
    service: TheService,
    room: TheRoom,
    reader: Reader,
    show: Literal["all", "errors", "correct", "abstained", "unusual", "unread", "read"] = "all",
    sort: Literal["errors", "confidence", "certain", "row"] = "errors",
    column: Annotated[str | None, Query(description="Column of the table to filter by, such as site")] = None,
    value: Annotated[str, Query(description="Its value")] = "",
    split: str | None = None,
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=_LIMIT)] = 50,
) -> dict[str, Any]:
    """List cases; errors come first unless another order is asked for. Blinded, the order is random for each reader."""
    own = _by_row(await service.in_store(readings.every, service.store.engine, room.key, reader=reader))
    if room.blinded and show not in ("all", "unread", "read"):
        raise Forbidden("this reading is blinded: cases cannot be chosen by what the model said")
    if column is not None and column not in room.columns:
        raise Invalid(f"no column {column[:60]!r} to filter by; there are {', '.join(room.columns) or 'none'}")
    found = [case for case in room.cases
             if matches(case, show, own.get(case["row"], ()), blinded=room.blinded)
             and (column is None or case["columns"][column] == value) and split in (None, case["split"])]  # fmt: skip
    found = order(found, sort, reader if room.blinded else None)
    shown = [room.told(case, own.get(case["row"], ())) for case in found[offset : offset + limit]]
    done = sum(room.is_done(own.get(case["row"], ())) for case in room.cases)
    return room.about() | {"reader": reader, "total": len(room.cases), "done": done, "found": len(found),
                           "cases": shown}  # fmt: skip


@router.get("/cases/{number}")
async def case(number: int, service: TheService, room: TheRoom, reader: Reader) -> dict[str, Any]:
    """Return a case with the reader's own readings; the number is that of its row in the table, from 0."""
    found = room.case(number)
    own = await service.in_store(readings.every, service.store.engine, room.key, reader=reader, row=number)
    return room.told(found, own)


@router.post("/cases/{number}/readings", status_code=201)
async def read(number: int, given: ReadingIn, service: TheService, room: TheRoom, reader: Reader) -> dict[str, Any]:
    """Store a decision; returns the case, which a first blinded decision uncovers."""
    found = room.case(number)
    engine = service.store.engine
    own = await service.in_store(readings.every, engine, room.key, reader=reader, row=number)
    phase = _phase(room, own, given)
    label = room.checked(given.label, needed=given.decision in ("relabel", "label"))
    reading = Reading(number, reader, phase, given.decision, label, given.confidence, given.note.strip(), given.seconds)
    stored = await service.in_store(readings.add, engine, room.key, reading)
    return room.told(found, [*own, stored])


def _phase(room: Room, own: list[Reading], given: ReadingIn) -> str:
    if not room.blinded:
        if given.decision == "label":
            raise Invalid("decision label is for blinded readings; expected agree, disagree or relabel")
        return REVIEW
    numbers_only = all(target["task"] == "regression" for target in room.targets)
    if given.decision != "label" or (given.confidence is None and not numbers_only):
        raise Invalid("this reading is blinded: expected decision label, with a label and a confidence")
    return WITH_MODEL if any(reading.phase == ALONE for reading in own) else ALONE


class MapOut(BaseModel):
    """How far the map of a case is."""

    state: str = Field(description="none, queued, running, done or failed.")
    note: str = Field(default="", description="Why there is none.")


@router.post("/cases/{number}/map", status_code=202)
async def make_map(number: int, service: TheService, room: TheRoom, reader: Reader, who: Client) -> MapOut:
    """Make the map of a case, unless it is there."""
    await _refuse_hidden(service, room, reader, number)
    now = await _map_state(service, room, number)
    if now.state in ("queued", "running", "done"):
        return now
    found = room.case(number)
    links = tuple(service.spool.link(Path(file)) for file in found["files"])
    about = {"views": tuple(found["views"])} if found["views"] else {}
    digest = sha256("\n".join(found["files"]).encode()).hexdigest()
    sample = Sample(links, found["frame"], variables=found["variables"] or None, digest=digest, name=f"row {number}",
                    case=len(links) > 1, **about)  # fmt: skip
    room.jobs[number] = await service.submit(room.model, [sample], explain=True, who=who, hold=True, entrance="room")
    return MapOut(state="queued")


@router.get("/cases/{number}/map")
async def map_state(number: int, service: TheService, room: TheRoom, reader: Reader) -> MapOut:
    """Return how far the map of a case is."""
    await _refuse_hidden(service, room, reader, number)
    return await _map_state(service, room, number)


async def _map_state(service: TheService, room: Room, number: int) -> MapOut:
    if number not in room.jobs:
        return MapOut(state="none")
    try:
        job = await service.job(room.jobs[number])
        await service.files(job.id, 0)
    except (NotFound, Conflict):  # its files were deleted after a while
        del room.jobs[number]
        return MapOut(state="none")
    answer = job.answers[0]
    if job.state == "done" and answer is not None and not answer.files:
        return MapOut(state="failed", note=answer.note or "the model makes no map of it")
    if job.state == "failed" and answer is not None:
        return MapOut(state="failed", note=str(answer.row["reason"]))
    return MapOut(state=job.state)


async def _refuse_hidden(service: TheService, room: Room, reader: str, number: int) -> None:
    room.case(number)  # refuses numbers that no database can hold, too
    own = await service.in_store(readings.every, service.store.engine, room.key, reader=reader, row=number)
    if not room.is_uncovered(own):
        raise Forbidden("this reading is blinded: decide first, then the model and its map are shown")


async def case_shown(number: int, request: Request, service: TheService, room: TheRoom, reader: Reader) -> Shown:
    """Return what is shown of a case: a dependency; blinded, its map is hidden."""
    found = room.case(number)
    model = service.model(room.model)
    rules = model.about.get("preprocessing", {}).get("rules")
    shown = Shown(tuple(map(Path, found["files"])), model.kind, found["frame"], {}, found["mpp"],
                  tuple(rules) if rules else None)  # fmt: skip
    if (await _map_state(service, room, number)).state != "done":
        return shown
    own = await service.in_store(readings.every, service.store.engine, room.key, reader=reader, row=number)
    if not room.is_uncovered(own):
        return shown
    job = await service.job(room.jobs[number])
    sample = await service.files(job.id, 0)
    mapped = shown_sample(model, sample, job.answers[0], service.spool.maps_of(sample.paths))
    return Shown(shown.paths, shown.kind, shown.frame, mapped.maps, shown.mpp, shown.rules)


add_views(router, "/cases/{number}", case_shown, "reading room")


@router.get("/readings.csv", response_class=Response)
async def export(
    service: TheService,
    room: TheRoom,
    form: Annotated[
        Literal["table", "log"],
        Query(description="The table with the readers' labels, for softfree train; or every reading"),
    ] = "table",
) -> Response:
    """Export readings as CSV."""
    found: list[Reading] = await service.in_store(readings.every, service.store.engine, room.key)
    name = f"readings_{form}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    if form == "log":
        return Response(readings_as_csv(found, room.key), media_type="text/csv; charset=utf-8", headers=headers)
    told = [reading.told() for reading in readings.last(found) if reading.phase == REVIEW]
    task = RenderTask(
        "softfree.serving.relabeling:export_table", (room.table,), {"targets": room.targets, "readings": told}
    )
    result = await service.render(task)
    return Response(result.body, media_type=result.media_type, headers=headers)


def readings_as_csv(found: Iterable[Reading], key: str) -> str:
    """Return readings as CSV, one a line; ``key`` is that of their room.

    Labels of findings and of several targets are JSON. Names, notes and classes are no formulas for a spreadsheet.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, ["room", *Reading(0, "", "", "").told()], lineterminator="\n")
    writer.writeheader()
    for reading in found:
        told = reading.told()
        told["reader"], told["note"] = harmless(reading.reader), harmless(reading.note)
        if isinstance(reading.label, dict):
            told["label"] = json.dumps(reading.label, ensure_ascii=False)
        elif isinstance(reading.label, str):
            told["label"] = harmless(reading.label)
        writer.writerow({"room": key, **told})
    return out.getvalue()


@router.get("/readings/report")
async def report(service: TheService, room: TheRoom) -> Response:
    """Return the numbers of the readings: AUROC of the readers with and without the model, changes, times."""
    return await _report(service, room, "json")


@router.get("/readings/report.html", response_class=Response)
async def report_page(service: TheService, room: TheRoom) -> Response:
    """Return the same as a page to share."""
    return await _report(service, room, "html")


async def _report(service: TheService, room: Room, form: str) -> Response:
    found = await service.in_store(readings.every, service.store.engine, room.key)
    arguments = {
        "readings": [asdict(reading) for reading in readings.last(found)],
        "room": room.for_report({reading.row for reading in found}),
        "form": form,
    }
    result = await service.render(RenderTask("softfree.serving.reading_report:report", (), arguments))
    headers = {"Content-Disposition": 'attachment; filename="reading_report.html"'} if form == "html" else {}
    return Response(result.body, media_type=result.media_type, headers=headers)


def _by_row(found: list[Reading]) -> Mapping[int, list[Reading]]:
    by_row: dict[int, list[Reading]] = {}
    for reading in found:
        by_row.setdefault(reading.row, []).append(reading)
    return by_row
