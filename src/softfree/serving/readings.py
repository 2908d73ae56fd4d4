"""Readings in the database: who decided what about a case, and when. Nothing is overwritten; the last one counts."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sql
from sqlalchemy import Column, Engine, Float, Integer, String, Table, Text

from softfree.serving.store import TABLES

REVIEW, ALONE, WITH_MODEL = "review", "alone", "with_model"
"""Phases: of a reading with the model and the label in sight; of a blinded one before and after the model is shown."""

readings = Table(
    "readings",
    TABLES,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("room", String(64), nullable=False, index=True),  # which table and model the rows belong to
    Column("row", Integer, nullable=False),
    Column("reader", String(200), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("decision", String(16), nullable=False),
    Column("label", Text),  # JSON
    Column("confidence", Float),
    Column("note", Text, nullable=False),
    Column("seconds", Float),
    Column("at", Float, nullable=False),
)


@dataclass(frozen=True)
class Reading:
    """What a reader decided.

    Attributes:
        row: Number of the case's row in the table.
        reader: Who.
        phase: ``review``, ``alone`` or ``with_model``.
        decision: ``agree``, ``disagree`` or ``relabel`` (review), or ``label``.
        label: A class; of findings 1, 0 or None for each; None without one.
        confidence: From 0 (a guess) to 1 (certain); None if not asked.
        note: The reader's words.
        seconds: Time that the case was looked at for this decision.
        at: When, in seconds since 1970.
    """

    row: int
    reader: str
    phase: str
    decision: str
    label: Any = None
    confidence: float | None = None
    note: str = ""
    seconds: float | None = None
    at: float = 0.0

    def told(self) -> dict[str, Any]:
        """As JSON."""
        when = datetime.fromtimestamp(self.at, UTC).isoformat(timespec="seconds")
        return {
            "row": self.row, "reader": self.reader, "phase": self.phase, "decision": self.decision,
            "label": self.label, "confidence": self.confidence, "note": self.note, "seconds": self.seconds, "at": when,
        }  # fmt: skip


def add(engine: Engine, room: str, reading: Reading) -> Reading:
    """Store a reading; returns it with its time."""
    at = time.time()
    values = {
        "room": room, "row": reading.row, "reader": reading.reader, "phase": reading.phase,
        "decision": reading.decision, "label": None if reading.label is None else json.dumps(reading.label),
        "confidence": reading.confidence, "note": reading.note, "seconds": reading.seconds, "at": at,
    }  # fmt: skip
    with engine.begin() as connection:
        connection.execute(sql.insert(readings).values(**values))
    return _reading(values)


def every(engine: Engine, room: str, *, reader: str | None = None, row: int | None = None) -> list[Reading]:
    """Return readings in the order in which they were made."""
    query = sql.select(readings).where(readings.c.room == room)
    if reader is not None:
        query = query.where(readings.c.reader == reader)
    if row is not None:
        query = query.where(readings.c.row == row)
    with engine.connect() as connection:
        return [_reading(dict(found)) for found in connection.execute(query.order_by(readings.c.id)).mappings()]


def last(found: Sequence[Reading]) -> list[Reading]:
    """Return the last reading of each reader, case and phase."""
    return list({(reading.reader, reading.row, reading.phase): reading for reading in found}.values())


def _reading(values: dict[str, Any]) -> Reading:
    label = values["label"]
    return Reading(
        values["row"], values["reader"], values["phase"], values["decision"],
        None if label is None else json.loads(label), values["confidence"], values["note"], values["seconds"],
        values["at"],
    )  # fmt: skip
