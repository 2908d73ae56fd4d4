"""A reader study in the report of the study: from the store or the exported file, and kept by an evaluation."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from softfree.inference.run import Run
from softfree.reporting.reader_study import restore_reader_study
from softfree.serving import readings
from softfree.serving.cases import held_out_answers
from softfree.serving.models import run_digest
from softfree.serving.reading_report import numbers_of
from softfree.serving.reading_room import readings_as_csv
from softfree.serving.readings import Reading
from softfree.serving.room import room_key
from softfree.serving.store import Store
from softfree.serving.study_readings import report_readings
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import Task


@pytest.fixture
def own(run: Run, tmp_path: Path) -> Run:
    """A copy of the run, whose report may change."""
    shutil.copytree(run.folder, tmp_path / "run")
    return Run.load(tmp_path / "run")


@pytest.fixture
def store(own: Run, tmp_path: Path) -> str:
    """The store of a server with a reader study of two readers, and other readings."""
    path = tmp_path / "store.sqlite"
    store = Store(str(path))
    key = room_key(own.table_digest or "", run_digest(own), blinded=True)
    rng = np.random.default_rng(0)
    for reader in ("Ann", "=Ben"):
        for case in held_out_answers(own, "")["cases"]:
            for phase, right in (("alone", 0.6), ("with_model", 0.9)):
                truth = case["answers"][""]["truth"]
                label = truth if rng.random() < right else next(name for name in own.task.classes if name != truth)
                given = Reading(case["row"], reader, phase, "label", label, float(rng.random()), "", 5.0)
                readings.add(store.engine, key, given)
    readings.add(store.engine, "another room", Reading(0, "Cid", "alone", "label", "no such class", 1.0))
    store.engine.dispose()
    return str(path)


def all_readings(own: Run, store: str) -> tuple[str, list[Reading]]:
    key = room_key(own.table_digest or "", run_digest(own), blinded=True)
    opened = Store(store)
    found = readings.every(opened.engine, key)
    opened.engine.dispose()
    return key, found


def test_numbers_from_the_store_and_from_the_file_are_those_of_the_room(own: Run, store: str, tmp_path: Path) -> None:
    before = own.directory.report.read_text()
    written = report_readings(own, store)
    assert written == [own.directory.reader_study, own.directory.metrics, own.directory.report]
    key, found = all_readings(own, store)
    room = held_out_answers(own, "") | {"blinded": True, "model": "run"}
    expected = numbers_of([one.told() for one in readings.last(found)], room)
    metrics = json.loads(own.directory.metrics.read_text())
    assert metrics["reader_study"]["targets"] == expected["targets"]
    assert metrics["metrics"] == json.loads((own.directory.metrics).read_text())["metrics"]
    (target,) = expected["targets"]
    assert {one["reader"] for one in target["readers"]} == {"Ann", "=Ben"}
    page = own.directory.report.read_text()
    assert len(page) > len(before)
    assert page.index("Reader study") < page.index("<h2>Data</h2>")
    assert f"{target['mean']['difference']['value']:+.3f}".replace("-", "−") in page

    exported = tmp_path / "readings_log.csv"
    exported.write_text(readings_as_csv(found, key))
    report_readings(own, str(exported))
    again = json.loads(own.directory.metrics.read_text())["reader_study"]["targets"]
    assert {one["reader"]: one["alone"] for one in again[0]["readers"]} == {
        one["reader"].replace("=Ben", "'=Ben"): one["alone"] for one in target["readers"]
    }
    assert own.directory.report.read_text().count('id="reader-study"') == 1  # instead of the earlier one


def test_an_evaluation_keeps_the_reader_study(own: Run, store: str) -> None:
    old_page, old_metrics = own.directory.report.read_text(), own.directory.metrics.read_text()
    restore_reader_study(own.directory)  # none yet
    assert own.directory.report.read_text() == old_page
    report_readings(own, store)
    with_study = own.directory.report.read_text()
    own.directory.report.write_text(old_page)
    own.directory.metrics.write_text(old_metrics)
    restore_reader_study(own.directory)
    assert own.directory.report.read_text() == with_study
    assert "reader_study" in json.loads(own.directory.metrics.read_text())
    own.directory.reader_study.write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        restore_reader_study(own.directory)


def test_readings_of_something_else_are_refused_in_one_line(own: Run, store: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        report_readings(own, str(tmp_path / "none.sqlite"))
    with pytest.raises(UserError, match="not a store"):
        report_readings(own, str(own.directory.config))
    key, found = all_readings(own, store)
    table = tmp_path / "log.csv"
    table.write_text("row,reader\n1,Ann\n")
    with pytest.raises(UserError, match="no column at, confidence"):
        report_readings(own, str(table))
    table.write_text(readings_as_csv(found, "another room"))
    with pytest.raises(UserError, match="no reader study of"):
        report_readings(own, str(table))
    table.write_text(readings_as_csv(found, key).replace(",high,", ",hihg,"))
    with pytest.raises(UserError, match=r"line .*hihg.*expected one of"):
        report_readings(own, str(table))
    own.directory.report.unlink()
    with pytest.raises(UserError, match="softfree evaluate"):
        report_readings(own, store)


def test_survival_is_refused_in_one_line() -> None:
    run: Any = SimpleNamespace(parts={}, task=Task("survival", ("days",)), folder="study")
    with pytest.raises(
        UserError, match=r"--cases t\.csv: study predicts survival, which the reading room does not support"
    ):
        held_out_answers(run, "--cases t.csv")
