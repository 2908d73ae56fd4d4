"""Times and events of a table: what is read, refused, and shared by splits and folds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from softfree.data.folds import assign_folds
from softfree.data.follow_up import check_horizons, quantile_cuts, quantile_horizons, read_times
from softfree.data.table import read_table
from softfree.data.table_file import RowNamer, TableFile
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import Task

PATH = Path("t.csv")


def table(days: list[str | None], died: list[str | None]) -> TableFile:
    return TableFile(pd.DataFrame({"days": days, "died": died}, dtype="string"), RowNamer("line", 2), "")


def test_times_and_events() -> None:
    task, targets = read_times(PATH, table(["12.5", "0", "30"], ["1", "0.0", "1"]), "days", "died", None)
    assert task == Task("survival", ("days",))
    assert targets.tolist() == [[12.5, 1], [0, 0], [30, 1]]
    task, _ = read_times(PATH, table(["12.5"], ["0"]), "days", "died", ["months"])
    assert task.classes == ("months",)


@pytest.mark.parametrize(
    ("days", "died", "why"),
    [
        (["1", None, "3"], ["1", "1", "0"], r"an event \(column 'died'\) and no time in column 'days' \(line 3\)"),
        (["1", "2", "3"], ["1", None, "0"], r"a time \(column 'days'\) and no cell in column 'died' \(line 3\)"),
        (["1", "-2", "3"], ["1", "1", "0"], r"'-2' in column 'days' \(line 3\); expected a finite number of at least"),
        (["1", "2 years", "3"], ["1", "1", "0"], r"'2 years' in column 'days' \(line 3\)"),
        (["1", "inf", "3"], ["1", "1", "0"], "'inf' in column 'days'"),
        (["1", "2", "3"], ["1", "yes", "0"], r"'yes' in column 'died' \(line 3\); expected 1 \(the event"),
        (["1", "2", "3"], ["1", "2", "0"], "'2' in column 'died'"),
        (["1", "2", "3"], ["0", "0", "0"], r"has no event \(1\) among 3 rows"),
        (["2", "2", "3"], ["1", "1", "0"], "all 2 events are at the time 2"),
    ],
)
def test_mistakes_are_one_line(days: list[str | None], died: list[str | None], why: str) -> None:
    with pytest.raises(UserError, match=why) as error:
        read_times(PATH, table(days, died), "days", "died", None)
    assert "\n" not in str(error.value)


def test_cuts_are_event_times_with_equal_counts() -> None:
    targets = np.stack([np.arange(1.0, 61), np.arange(60) % 2], axis=1)  # 30 events, at even times
    assert quantile_cuts(targets, 3) == (20, 40, 60)
    assert len(quantile_cuts(targets)) == 10
    few = targets[:12]  # six events: two intervals
    assert quantile_cuts(few) == (6, 12)
    tied = np.array([[5.0, 1]] * 20 + [[7.0, 1]] * 20)
    assert quantile_cuts(tied) == (5, 7)
    at_zero = np.array([[0.0, 1], [3.0, 1], [5.0, 1]])
    assert quantile_cuts(at_zero)[0] > 0


def test_horizons() -> None:
    targets = np.stack([np.linspace(1, 1001, 41), np.ones(41)], axis=1)
    assert quantile_horizons(targets, 1001.0) == (251, 501, 751)
    assert check_horizons([365.0, 180.0], 1001.0, "days") == (180, 365)
    for wrong in (0.0, 1002.0):
        with pytest.raises(UserError, match=r"above 0 and up to 1001"):
            check_horizons([wrong], 1001.0, "days")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write a table of 60 patients of whom a fifth has the event."""
    rng = np.random.default_rng(0)
    rows = {"path": [f"{n}.png" for n in range(60)], "days": rng.uniform(1, 900, 60).round(1)}
    frame = pd.DataFrame(rows | {"died": np.arange(60) % 5 == 0, "patient_id": [f"p{n}" for n in range(60)]})
    frame["died"] = frame["died"].astype(int)
    for name in frame["path"]:
        (tmp_path / name).touch()
    frame.to_csv(tmp_path / "t.csv", index=False)
    return tmp_path / "t.csv"


def test_splits_and_folds_share_the_events(path: Path) -> None:
    read = read_table(path, label="days", event="died", task="survival")
    assert "stratified by event" in (read.split_made or "")
    for split in ("train", "val", "test"):
        assert read.where(split).targets[:, 1].sum() >= 1
    folds = assign_folds(read, 4)
    counts = [int(read.targets[folds.numbers[0] == fold, 1].sum()) for fold in range(4)]
    assert counts == [3, 3, 3, 3]
    with pytest.raises(UserError, match="13 folds: the event has 12 patients"):
        assign_folds(read, 13)


def test_splits_share_the_fifths_of_a_number(path: Path) -> None:
    read = read_table(path, label="days", task="regression")
    assert "stratified by fifths of the number" in (read.split_made or "")
    edges = np.quantile(read.targets, [0.2, 0.4, 0.6, 0.8])
    for split in ("train", "val", "test"):
        assert len(set(np.searchsorted(edges, read.where(split).targets, side="right"))) == 5


def test_rows_without_time_and_event_are_left_out(path: Path) -> None:
    frame = pd.read_csv(path)
    frame.loc[3, ["days", "died"]] = None
    frame.to_csv(path, index=False)
    read = read_table(path, label="days", event="died", task="survival")
    assert read.left_out == {"no label": 1}
    assert len(read.targets) == 59


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"task": "survival"}, "--task survival needs --event"),
        ({"event": "died"}, "--event died is for --task survival"),
        ({"task": "survival", "event": "days"}, "both name the column 'days'"),
        ({"task": "survival", "event": "dead"}, "no column 'dead'"),
        ({"task": "survival", "event": "died", "labels": ["a"]}, "leave out --labels"),
    ],
)
def test_options_that_do_not_fit(path: Path, options: dict, why: str) -> None:
    with pytest.raises(UserError, match=why):
        read_table(path, label="days", **options)
