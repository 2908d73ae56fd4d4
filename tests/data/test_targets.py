"""A file of targets and its columns: what is read, and one line for what does not fit."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from softfree.core.options import TrainOptions
from softfree.data.folds import assign_folds
from softfree.data.follow_up import quantile_cuts
from softfree.data.table import Table, read_table
from softfree.data.targets import specs_of, tables_of, task_in_config
from softfree.training.follow_up import time_settings, with_intervals
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.targets import Targets
from softfree_runtime.core.task import Task

TARGETS = """
- {name: ill, kind: classes, column: label, positive: a}
- {name: grade, kind: ordinal, column: grade, classes: [none, mild, severe]}
- {name: volume, kind: regression, column: ml, weight: 2}
- {name: signs, kind: findings, columns: [one, two]}
"""


def write(folder: Path, targets: str = TARGETS, **columns: object) -> tuple[Path, Path]:
    number = np.arange(40)
    frame = pd.DataFrame(
        {
            "path": [f"{i}.png" for i in number],
            "label": np.where(number % 2, "b", "a"),
            "grade": np.array(["none", "mild", "severe", "mild"])[number % 4],
            "ml": number * 1.5,
            "one": number % 2,
            "two": number // 2 % 2,
        }
    ).astype(object)
    frame.loc[:3, "grade"] = None
    frame.loc[2:6, "ml"] = None
    frame.loc[5:9, "one"] = None
    for name, values in columns.items():
        frame[name] = values
    frame.to_csv(folder / "table.csv", index=False)
    (folder / "targets.yaml").write_text(targets)
    return folder / "table.csv", folder / "targets.yaml"


def read(folder: Path, targets: str = TARGETS, **columns: object) -> Table:
    table, path = write(folder, targets, **columns)
    return read_table(table, targets=path)


def test_unknown_cells_are_nan_and_each_target_reads_as_it_does_alone(tmp_path: Path) -> None:
    table = read(tmp_path)
    assert isinstance(table.task, Targets)
    assert table.task.outputs == (
        "ill.b", "ill.a", "grade.above_none", "grade.above_mild", "volume.ml", "signs.one", "signs.two",
    )  # fmt: skip
    np.testing.assert_array_equal(table.targets[2], [1, np.nan, np.nan, 0, 1])
    np.testing.assert_array_equal(table.targets[7], [0, 1, 10.5, np.nan, 1])
    alone = {
        "ill": read_table(tmp_path / "table.csv", positive="a"),
        "grade": read_table(
            tmp_path / "table.csv", label="grade", task="ordinal", classes_in_order=["none", "mild", "severe"]
        ),
        "volume": read_table(tmp_path / "table.csv", label="ml", task="regression"),
        "signs": read_table(tmp_path / "table.csv", labels=["one", "two"]),
    }
    for name, own in tables_of(table).items():
        assert own.task == alone[name].task
        assert own.targets.dtype == alone[name].targets.dtype
        np.testing.assert_array_equal(own.targets, alone[name].targets)
        assert own.frame["row"].tolist() == alone[name].frame["row"].tolist()


SURVIVAL = """
- {name: ill, kind: classes, column: label}
- {name: death, kind: survival, time: days, event: died, cuts: [5, 20], horizons: [10]}
- {name: back, kind: survival, time: days, event: died, loss: cox}
"""


def times() -> dict[str, object]:
    """Times and events of 40 rows, of which two are unknown."""
    days: list[float | None] = [*(np.arange(40) * 0.75)]
    died: list[int | None] = [int(number % 3 == 0) for number in range(40)]
    days[4] = died[4] = days[9] = died[9] = None
    return {"days": days, "died": pd.array(died, dtype="Int64")}


def test_times_and_events_are_columns_of_their_own(tmp_path: Path) -> None:
    table = read(tmp_path, SURVIVAL, **times())
    assert table.targets.shape == (40, 5)
    np.testing.assert_array_equal(table.targets[3, 1:], [2.25, 1, 2.25, 1])
    assert np.isnan(table.targets[4, 1:]).all()
    assert table.targets[4, 0] == 0
    alone = read_table(tmp_path / "table.csv", label="days", event="died", task="survival")
    own = tables_of(table)["death"]
    assert own.task == alone.task  # the intervals are chosen when the splits are known
    assert own.targets.dtype == alone.targets.dtype
    np.testing.assert_array_equal(own.targets, alone.targets)
    assert own.frame["row"].tolist() == alone.frame["row"].tolist()
    for split in ("train", "val", "test"):
        assert tables_of(table.where(split))["death"].targets[:, 1].sum() >= 1


def test_survival_of_a_run_keeps_intervals_and_horizons(tmp_path: Path) -> None:
    options = TrainOptions(table=tmp_path / "table.csv", targets=tmp_path / "targets.yaml")
    table = with_intervals(read(tmp_path, SURVIVAL, **times()), options)
    death, back = (dict(table.task.parts)[name] for name in ("death", "back"))  # type: ignore[attr-defined]
    assert death.cuts == (5.0, 20.0)
    assert back.cuts == ()
    assert table.task.outputs == ("ill.a", "ill.b", "death.hazard_1", "death.hazard_2", "back.log_hazard")
    kept = time_settings(table, options)
    assert kept["death"] == {"horizons": [10.0]}
    train = tables_of(table.where("train"))["back"].targets
    at = train[(train[:, 1] == 1) & (train[:, 0] > 0), 0]
    assert kept["back"]["horizons"] == pytest.approx(np.quantile(at, [0.25, 0.5, 0.75]), rel=0.01)
    config = {"task": task_in_config(table.task, tmp_path / "targets.yaml"), "target": kept}
    _, one, other = specs_of(config)
    assert (one.kind, one.columns, one.cuts, one.horizons) == ("survival", ("days", "died"), (5.0, 20.0), (10.0,))
    assert (one.loss, other.loss, other.cuts) == ("hazard", "cox", ())
    assert one.options() == {
        "targets": None, "label": "days", "event": "died", "labels": None, "task": "survival", "classes_in_order": None,
        "positive": None, "loss": "hazard", "cuts": [5.0, 20.0], "horizons": [10.0],
    }  # fmt: skip
    again = read_table(tmp_path / "table.csv", targets=specs_of(config))
    assert again.task == table.task
    resumed = with_intervals(again, TrainOptions(table=tmp_path / "table.csv"))
    assert resumed.task == table.task


def test_intervals_are_those_of_training_events_or_of_all_rows_in_folds(tmp_path: Path) -> None:
    lines = "- {name: death, kind: survival, time: days, event: died}\n- {name: ill, kind: classes, column: label}"
    table = read(tmp_path, lines, **times())
    options = TrainOptions(table=tmp_path / "table.csv", targets=tmp_path / "targets.yaml")
    rows = tables_of(table)["death"]
    of_training = quantile_cuts(tables_of(table.where("train"))["death"].targets)
    assert dict(with_intervals(table, options).task.parts)["death"].cuts == of_training  # type: ignore[attr-defined]
    options.fold_file = tmp_path / "folds.json"
    in_folds = dict(with_intervals(table, options).task.parts)["death"].cuts  # type: ignore[attr-defined]
    assert in_folds == quantile_cuts(rows.targets)
    assert in_folds != of_training


def test_a_row_without_any_target_is_left_out_and_one_with_any_is_used(tmp_path: Path) -> None:
    write(tmp_path)
    frame = pd.read_csv(tmp_path / "table.csv")
    frame.loc[11, ["label", "grade", "ml", "one", "two"]] = None
    frame.loc[12, ["label", "grade", "ml", "one"]] = None
    frame.to_csv(tmp_path / "table.csv", index=False)
    table = read_table(tmp_path / "table.csv", targets=tmp_path / "targets.yaml")
    assert table.left_out == {"no label": 1}
    assert 11 not in table.frame["row"].tolist()
    assert 12 in table.frame["row"].tolist()


def test_every_split_has_its_share_of_each_class_of_each_target(tmp_path: Path) -> None:
    rare = ["none", *["mild"] * 16, *["none"] * 4, *["severe"] * 4, *["mild"] * 15]
    table = read(tmp_path, grade=rare)
    for split in ("train", "val", "test"):
        rows = tables_of(table.where(split))
        assert set(rows["grade"].targets) == {0, 1, 2}
        assert set(rows["ill"].targets) == {0, 1}
        assert len(rows["volume"].targets) > 0


def test_folds_are_stratified_by_the_first_target(tmp_path: Path) -> None:
    table = read(tmp_path)
    numbers = assign_folds(table, 4).numbers[0]
    for fold in range(4):
        assert 0.3 < tables_of(table)["ill"].targets[numbers == fold].mean() < 0.7
    with pytest.raises(UserError, match="10 folds: class 'none' of target 'grade' has 9 patients"):
        assign_folds(table, 10)


def test_a_run_reads_its_targets_from_its_own_configuration(tmp_path: Path) -> None:
    table = read(tmp_path)
    content = task_in_config(table.task, tmp_path / "targets.yaml")
    assert [part["weight"] for part in content["targets"]] == [1, 1, 2, 1]
    few = pd.read_csv(tmp_path / "table.csv").head(12).query("grade != 'none'")
    few.to_csv(tmp_path / "few.csv", index=False)
    again = read_table(tmp_path / "few.csv", targets=specs_of({"task": content}), val_fraction=0.0, test_fraction=1.0)
    assert again.task == table.task
    rows = table.frame["row"].isin(few.index)
    np.testing.assert_array_equal(again.targets, table.targets[rows])


def test_an_ordinal_target_of_whole_numbers_needs_no_order(tmp_path: Path) -> None:
    table = read(
        tmp_path, "- {name: grade, kind: ordinal, column: grade}", grade=np.array([10, 2, 1, 2])[np.arange(40) % 4]
    )
    assert tables_of(table)["grade"].task == Task("ordinal", ("1", "2", "10"))


def test_classes_may_be_given_in_their_order(tmp_path: Path) -> None:
    table = read(tmp_path, "- {name: grade, kind: classes, column: grade, classes: [mild, none, severe]}")
    assert tables_of(table)["grade"].task == Task("multiclass", ("mild", "none", "severe"))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("grade", "expected a list of targets"),
        ("- {kind: classes, column: label}", "the name of target 1 is missing"),
        ("- {name: a.b, kind: classes, column: label}", "the name of target 1 is 'a.b'; expected a word"),
        ("- {name: a, kind: classes, colunm: label}", "unknown field 'colunm' (did you mean 'column'?)"),
        ("- {name: a, kind: ranks, column: label}", "unknown kind 'ranks'; expected classes or findings or ordinal"),
        ("- {name: a, column: label}", "target 'a': kind is missing"),
        ("- {name: a, kind: survival, column: ml}", "expected 'time: NAME' and 'event: NAME' for kind survival"),
        ("- {name: a, kind: survival, time: ml}", "expected 'time: NAME' and 'event: NAME' for kind survival"),
        ("- {name: a, kind: survival, time: ml, event: ml}", "columns are ['ml', 'ml']; expected different ones"),
        ("- {name: a, kind: regression, time: ml, event: one}", "expected 'column: NAME' for kind regression"),
        ("- {name: a, kind: survival, time: ml, event: one, loss: mse}", "loss is 'mse'; expected hazard or cox"),
        ("- {name: a, kind: survival, time: ml, event: one, loss: cox, cuts: [1]}", "cuts are for loss hazard"),
        ("- {name: a, kind: survival, time: ml, event: one, cuts: [5, 5]}", "cuts are [5, 5]; expected increasing"),
        ("- {name: a, kind: survival, time: ml, event: one, horizons: [0]}", "horizons are [0]; expected increasing"),
        ("- {name: a, kind: survival, time: ml, event: one, cuts: soon}", "cuts is 'soon'; expected a list"),
        (
            "- {name: a, kind: regression, column: ml, loss: mse}",
            "loss is for kind survival; leave it out of regression",
        ),
        ("- {name: a, kind: survival, time: ml, event: one}", "target 'a': "),
        ("- {name: a, kind: survival, time: label, event: two}", "target 'a': "),
        ("- {name: a, kind: classes, column: labl}", "no column 'labl' (did you mean 'label'?)"),
        ("- {name: a, kind: classes, columns: [label]}", "expected 'column: NAME' for kind classes"),
        ("- {name: a, kind: findings, column: one}", "expected 'columns: [one, another]' for kind findings"),
        ("- {name: a, kind: findings, columns: [one, one]}", "columns are ['one', 'one']; expected different ones"),
        ("- {name: a, kind: regression, column: ml, weight: 0}", "weight is 0; expected a number above 0"),
        ("- {name: a, kind: regression, column: ml, weight: -1}", "weight is -1; expected a number above 0"),
        ("- {name: a, kind: regression, column: ml, weight: much}", "weight is 'much'; expected a finite number"),
        ("- {name: a, kind: regression, column: ml, classes: [x, y]}", "leave them out of regression"),
        ("- {name: a, kind: regression, column: ml, positive: x}", "positive is for kind classes"),
        ("- {name: a, kind: ordinal, column: grade, classes: 2}", "classes are 2; expected two or more"),
        ("- {name: a, kind: classes, column: label, classes: true}", "classes are True; expected two or more"),
        ("- {name: a, kind: classes, column: label, classes: 2.5}", "classes are 2.5; expected two or more"),
        ("- {name: a, kind: classes, column: label, classes: well}", "classes are 'well'; expected two or more"),
        ("- {name: a, kind: ordinal, column: grade, classes: [yes, no]}", "expected two or more different names"),
        ("- {name: a, kind: ordinal, column: grade}", "their order is not known; list them from the lowest"),
        (
            "- {name: a, kind: ordinal, column: label, classes: [a, b]}",
            "three or more classes; column 'label' has a, b",
        ),
        (
            "- {name: a, kind: ordinal, column: grade, classes: [none, mild, bad]}",
            "expected each class of column 'grade'",
        ),
        ("- {name: a, kind: classes, column: label, positive: c}", "target 'a': "),
        ("- {name: a, kind: regression, column: label}", "target 'a': "),
        (
            "- {name: a, kind: classes, column: label}\n- {name: A, kind: classes, column: label}",
            "two targets are called 'A'",
        ),
        (
            "- {name: a, kind: regression, column: nothing}\n- {name: b, kind: classes, column: label}",
            "target 'a' has no known cell in nothing",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, targets: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, targets, nothing="")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "other",
    [
        {"label": "grade"},
        {"labels": ["one"]},
        {"task": "ordinal"},
        {"positive": "a"},
        {"classes_in_order": ["a"], "task": "ordinal"},
    ],
)
def test_options_of_a_single_target_are_refused_beside_a_file(tmp_path: Path, other: dict) -> None:
    table, path = write(tmp_path)
    with pytest.raises(UserError, match="--targets names a file with several; leave out --"):
        read_table(table, targets=path, **other)
