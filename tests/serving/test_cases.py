"""What the reading room knows of a case, by kind of target."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from softfree.inference.run_directory import RunDirectory
from softfree.serving.cases import _answer, _own, _rank, _read
from softfree.serving.explaining import target_of_maps
from softfree_runtime.core.task import Task


def test_a_number_is_wrong_outside_its_interval() -> None:
    task = Task("regression", ("age",))
    cells = {"target": 40.0, "value": 52.0, "low": 42.0, "high": 62.0, "raw_age": 1.0}
    answer = _answer(task, cells, True)
    assert (answer["truth"], answer["wrong"], answer["error"], answer["confidence"]) == (40.0, True, 12.0, None)
    assert answer["row"] == {"value": 52.0, "low": 42.0, "high": 62.0, "predicted": ""}
    assert not _answer(task, cells | {"low": 40.0}, True)["wrong"]
    assert not _answer(task, {"target": 40.0, "value": 52.0}, True)["wrong"]  # without an interval


def test_an_out_of_fold_case_keeps_the_threshold_of_its_answer() -> None:
    cells = {"target": 1, "p_well": 0.55, "p_ill": 0.45, "predicted": "well", "threshold_ill": 0.5}
    answer = _answer(Task("binary", ("well", "ill")), cells, True)
    assert answer["wrong"]
    assert answer["row"]["threshold_ill"] == 0.5


def test_maps_of_several_targets_are_about_the_first_that_has_some() -> None:
    parts = {name: SimpleNamespace(task=Task(kind, ("x",))) for name, kind in
             (("death", "survival"), ("age", "regression"), ("other", "regression"))}  # fmt: skip
    several: Any = SimpleNamespace(parts=parts)
    assert target_of_maps(several) == "age"
    single: Any = SimpleNamespace(parts={})
    assert target_of_maps(single) is None


def test_classes_may_be_called_by_numbers_or_like_missing_values(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.predictions.write_text("row,status,predicted\n0,ok,2\n1,corrupt,\n2,ok,NA\n3,ok,0\n")
    assert _read(directory)["predicted"].tolist() == ["2", "", "NA", "0"]


def test_findings_of_unknown_truth_are_neither_right_nor_wrong() -> None:
    task = Task("multilabel", ("a", "b"))
    cells = {"target_a": 1, "target_b": None, "p_a": 0.2, "p_b": 0.9, "predicted": "b"}
    answer = _answer(task, cells, True)
    assert answer["truth"] == {"a": 1, "b": None}
    assert (answer["wrong"], answer["error"], answer["confidence"]) == (True, 0.8, 0.8)
    unknown = _answer(task, cells | {"target_a": None}, True)
    assert (unknown["truth"], unknown["wrong"], unknown["error"]) == (None, False, 0.0)


def test_each_target_has_its_own_cells_and_numbers_are_ranked_with_probabilities() -> None:
    classes, number = Task("binary", ("no", "yes")), Task("regression", ("age",))
    rows = [
        {"finding.target": 1, "finding.p_no": 0.7, "finding.p_yes": 0.3, "finding.predicted": "no", "age.target": None},
        {"finding.target": None, "finding.p_no": None, "finding.p_yes": None, "age.target": 30.0, "age.value": 50.0},
        {"finding.target": 0, "finding.p_no": 0.9, "finding.p_yes": 0.1, "finding.predicted": "no",
         "age.target": 30.0, "age.value": 35.0},
    ]  # fmt: skip
    cases = [
        {"answers": {name: _answer(task, _own(cells, name), True) for name, task in
                     (("finding", classes), ("age", number))}}
        for cells in rows
    ]  # fmt: skip
    assert cases[0]["answers"]["finding"]["truth"] == "yes"
    assert cases[0]["answers"]["age"]["row"] is None
    assert cases[1]["answers"]["finding"]["row"] is None
    _rank(cases, ["age"])
    assert [case["error"] for case in cases] == pytest.approx([0.7, 1.0, 0.25])
