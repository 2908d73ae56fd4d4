"""Readings of a reader study, from the file that the reading room exports or from its store, for the study's report."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from softfree.inference.run import Run
from softfree.reporting.reader_study import write_reader_study
from softfree.serving.cases import held_out_answers
from softfree.serving.errors import Invalid
from softfree.serving.models import run_digest
from softfree.serving.reading_report import numbers_of
from softfree.serving.readings import ALONE, WITH_MODEL, Reading, every, last
from softfree.serving.room import checked_label, room_key
from softfree_runtime.core.errors import UserError


def report_readings(run: Run, source: str) -> list[Path]:
    """Add the numbers of a reader study to the results of a run or study.

    Args:
        run: The run or study that was read.
        source: A CSV file with all readings, or the store of the server: a file, or an address of SQLAlchemy.

    Returns:
        The files that were written.

    Raises:
        UserError: The readings are of another model, or cannot be read.
    """
    key = room_key(run.table_digest or "", run_digest(run), blinded=True)
    content = held_out_answers(run, f"--readings {source}")
    is_csv = source.lower().endswith(".csv")
    found = last(list(_of_file(Path(source), key, content["targets"])) if is_csv else _of_store(source, key))
    if not any(reading.phase == WITH_MODEL for reading in found):
        raise UserError(
            f"--readings {source}: no reader study of {run.folder} as it is now; expected readings that were made with"
            f" softfree serve {run.folder} --cases TABLE --blinded, before the run or its table was changed"
        )
    room = content | {"blinded": True, "model": run.folder.resolve().name}
    numbers = numbers_of([reading.told() for reading in found], room)
    kept = {name: numbers[name] for name in ("cases", "targets", "notes")}
    return write_reader_study(run.directory, {"model": room["model"], **kept})


def _of_store(source: str, key: str) -> list[Reading]:
    """Read the readings of a room from a database, without making a new one."""
    import sqlalchemy as sql

    if "://" not in source and not Path(source).is_file():
        raise UserError(f"--readings {source}: no such file; expected a CSV file of all readings, or the --store of"
                        " softfree serve")  # fmt: skip
    try:
        engine = sql.create_engine(source if "://" in source else f"sqlite:///{Path(source).resolve()}")
        try:
            return every(engine, key)
        finally:
            engine.dispose()
    except (sql.exc.SQLAlchemyError, ImportError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise UserError(f"--readings {source}: is not a store of softfree serve ({reason})") from None


def _of_file(path: Path, key: str, targets: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """Yield the readings of a room from a CSV file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = {"room", *Reading(0, "", "", "").told()} - set(reader.fieldnames or ())
            if missing:
                raise UserError(f"--readings {path}: no column {', '.join(sorted(missing))}; expected the file of 'All"
                                " readings (CSV)' in the reading room")  # fmt: skip
            rows = [(number, row) for number, row in enumerate(reader, start=2) if row["room"] == key]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--readings {path}: cannot be read ({error})") from None
    for number, row in rows:
        if row["phase"] not in (ALONE, WITH_MODEL):
            continue
        try:
            yield _reading(row, targets)
        except (ValueError, TypeError, AttributeError, Invalid) as error:
            raise UserError(f"--readings {path}: line {number}: {error}") from None


def _reading(row: Mapping[str, str], targets: Sequence[Mapping[str, Any]]) -> Reading:
    """Return a line of the file as a reading; ValueError or Invalid if a cell does not fit."""
    confidence, seconds = (float(row[name]) if row[name] else None for name in ("confidence", "seconds"))
    if confidence is not None and not 0 <= confidence <= 1:
        raise ValueError(f"confidence {confidence:g}; expected 0 to 1")
    if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"seconds {seconds:g}; expected 0 or more")
    return Reading(int(row["row"]), row["reader"], row["phase"], row["decision"], _label(row["label"], targets),
                   confidence, row["note"], seconds)  # fmt: skip


def _label(text: str, targets: Sequence[Mapping[str, Any]]) -> Any:
    if targets[0]["name"]:
        given = json.loads(text)
        return {target["name"]: checked_label(given.get(target["name"]), target) for target in targets}
    (target,) = targets
    if target["task"] == "regression":
        return checked_label(float(text), target)
    if target["task"] == "multilabel":
        return checked_label(json.loads(text), target)
    plain = text[1:] if text[:1] == "'" and text not in target["classes"] else text  # as harmless() wrote it
    return checked_label(plain, target)
