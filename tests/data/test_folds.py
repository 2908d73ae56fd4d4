"""Folds are made of whole patients, the same at each call, and kept without naming anybody."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from softfree.data.folds import assign_folds, folds_of, read_folds, split_of_fold, write_folds
from softfree.data.table import Table, read_table
from softfree_runtime.core.errors import UserError


def table_of(folder: Path, **columns: list) -> Table:
    """Ninety images of thirty patients, ten of them ill; images of one patient do not stand together."""
    numbers = np.arange(90)
    frame = pd.DataFrame({"path": [f"{n}.png" for n in numbers], "patient_id": [f"Doe{n % 30:02}" for n in numbers]})
    frame["label"] = np.where(numbers % 30 < 10, "ill", "well")
    frame.assign(**columns).to_csv(folder / "t.csv", index=False)
    return read_table(folder / "t.csv", strict_patients=False)


def test_patients_are_whole_and_classes_are_spread(tmp_path: Path) -> None:
    table = table_of(tmp_path)
    folds = assign_folds(table, 5)
    assert folds.names == ("1", "2", "3", "4", "5")
    assert folds.numbers.shape == (1, 90)
    assert folds.made == "patients drawn into 5 folds, stratified by class, seed 0"
    parts = folds.numbers[0]
    assert pd.Series(parts).groupby(table.frame["patient"]).nunique().max() == 1
    for fold in range(5):
        assert len(np.unique(table.frame["patient"][parts == fold])) == 6
        assert len(np.unique(table.frame["patient"][(parts == fold) & (table.targets == 0)])) == 2


def test_the_draw_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    table = table_of(tmp_path)
    by_path = dict(zip(table.frame["path"], assign_folds(table).numbers[0], strict=True))
    pd.read_csv(tmp_path / "t.csv").sample(frac=1, random_state=1).to_csv(tmp_path / "t.csv", index=False)
    again = read_table(tmp_path / "t.csv")
    assert dict(zip(again.frame["path"], assign_folds(again).numbers[0], strict=True)) == by_path


def test_each_repeat_is_another_draw(tmp_path: Path) -> None:
    table = table_of(tmp_path)
    folds = assign_folds(table, 3, repeats=2, seed=7)
    assert folds.numbers.shape == (2, 90)
    assert (folds.numbers[0] != folds.numbers[1]).any()
    np.testing.assert_array_equal(folds.numbers[1], assign_folds(table, 3, seed=8).numbers[0])
    assert folds.made == "patients drawn into 3 folds, 2 times, stratified by class, seed 7"


def test_the_fixed_test_rows_are_kept_apart(tmp_path: Path) -> None:
    split = ["test" if n % 30 in (0, 29) else "val" if n % 30 == 1 else "train" for n in range(90)]
    table = table_of(tmp_path, split=split)
    folds = assign_folds(table, 3)
    assert ((folds.numbers[0] == -1) == (np.array(split) == "test")).all()
    assert (assign_folds(table, 3, use_test=True).numbers >= 0).all()
    write_folds(tmp_path / "folds.json", table, folds)
    part = read_table(tmp_path / "t.csv", known=split_of_fold(tmp_path / "folds.json", 2))
    assert part.left_out == {"in no fold": 6}
    held = part.frame.loc[part.frame["split"] == "val", "path"]
    assert set(held) == set(table.frame["path"][folds.numbers[0] == 1])
    assert set(part.frame["split"]) == {"train", "val"}
    assert part.split_made == "fold 2 held out (patients drawn into 3 folds, stratified by class, seed 0)"


def test_a_drawn_split_is_no_fixed_test_set(tmp_path: Path) -> None:
    assert (assign_folds(table_of(tmp_path)).numbers >= 0).all()


def test_sites_are_left_out_in_turn(tmp_path: Path) -> None:
    folds = assign_folds(table_of(tmp_path, site=[f"site {n % 3}" for n in range(90)]), by="site")
    assert folds.names == ("site 0", "site 1", "site 2")
    np.testing.assert_array_equal(folds.numbers[0], np.arange(90) % 3)
    assert folds.made == "3 folds by the column 'site'"


@pytest.mark.parametrize("by", ["patient_id", "case_id", "path", "PatientName"])
def test_folds_of_patients_are_numbered_and_name_nobody(tmp_path: Path, by: str) -> None:
    numbers = np.arange(90)
    names = [f"Doe{n % 30:02}" for n in numbers]
    patients = [f"{n}" for n in numbers] if by == "path" else names
    table = table_of(tmp_path, patient_id=patients, case_id=patients, PatientName=names)
    folds = assign_folds(table, by=by)
    assert folds.names == tuple(str(n + 1) for n in range(90 if by == "path" else 30))
    assert pd.Series(folds.numbers[0]).groupby(table.frame[by].to_numpy()).nunique().max() == 1
    write_folds(tmp_path / "folds.json", table, folds)
    assert "Doe" not in (tmp_path / "folds.json").read_text()
    assert split_of_fold(tmp_path / "folds.json", 1).in_words().startswith("fold 1 held out")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["Doe"] * 10 + ["Roe"] * 20, "class 'ill' is only in fold '1', so that no training"),
        (["Doe"] * 30, "column 'patient_id' has only one value: expected two or more"),
    ],
)
def test_refused_folds_of_patients_name_nobody(tmp_path: Path, ids: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        assign_folds(table_of(tmp_path, patient_id=ids * 3, split=["train"] * 90), by="patient_id")
    assert "Doe" not in str(refused.value)


def test_folds_in_parquet_may_be_empty_for_some_rows(tmp_path: Path) -> None:
    table_of(tmp_path)
    fold = pd.array([None, *[1, 2] * 44, 1], "Int64")
    pd.read_csv(tmp_path / "t.csv").assign(fold=fold).to_parquet(tmp_path / "t.parquet")
    folds = folds_of(read_table(tmp_path / "t.parquet"))
    assert folds is not None
    assert folds[:3] == ["", "1", "2"]


def test_a_column_of_own_folds_is_used(tmp_path: Path) -> None:
    table = table_of(tmp_path, fold=[10 * (n % 2) for n in range(90)])
    folds = assign_folds(table)
    assert folds.names == ("0", "10")
    np.testing.assert_array_equal(folds.numbers[0], np.arange(90) % 2)
    with pytest.raises(UserError, match="got folds by 'label' for a table with a column 'fold': use only one"):
        assign_folds(table, by="label")


@pytest.mark.parametrize(
    ("columns", "arguments", "message"),
    [
        ({}, {"count": 1}, "got 1 folds: expected 2 or more"),
        ({}, {"count": 11}, "11 folds: class 'ill' has 10 patients; expected one for each fold: use fewer folds"),
        ({}, {"repeats": 0}, "got 0 repeats: expected 1 or more"),
        ({}, {"by": "site"}, "folds by 'site': no such column; the table has path, patient_id, label"),
        ({"site": ["A"] * 90}, {"by": "site"}, "column 'site' has only the value 'A': expected two or more"),
        ({"fold": [1.0, None] + [2.0] * 88}, {}, r"column 'fold' is empty in 1 of 90 rows \(row 1\); fill them in"),
        (
            {"fold": [1] + [2] * 89},
            {},
            r"column 'fold' puts 1 patient into more than one fold \(rows 0, 30, 60\): a patient must be in one",
        ),
        ({"fold": ["a", "b"] * 45}, {"repeats": 2}, "got 2 repeats of folds that are not drawn: expected 1"),
        (
            {"site": ["A" if n % 30 < 10 else "B" for n in range(90)]},
            {"by": "site"},
            "class 'ill' is only in fold 'A', so that no training that holds it out sees it",
        ),
        ({"split": ["test"] * 90}, {}, "all rows are in split test: no row is left to train on"),
    ],
)
def test_impossible_folds_are_refused(tmp_path: Path, columns: dict, arguments: dict, message: str) -> None:
    table = table_of(tmp_path, **columns)
    with pytest.raises(UserError, match=message):
        assign_folds(table, **arguments)


def test_findings_are_spread_by_the_rarest(tmp_path: Path) -> None:
    numbers = np.arange(60)
    frame = pd.DataFrame({"path": [f"{n}.png" for n in numbers], "rare": (numbers < 4).astype(int)})
    frame["common"] = (numbers % 2).astype(int)
    frame.to_csv(tmp_path / "t.csv", index=False)
    table = read_table(tmp_path / "t.csv", labels=["common", "rare"])
    parts = assign_folds(table, 4).numbers[0]
    assert sorted(parts[:4]) == [0, 1, 2, 3]
    assert np.bincount(parts).tolist() == [15, 15, 15, 15]
    frame["rare"] = (numbers < 1).astype(int)
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(UserError, match="4 folds: finding 'rare' has 1 patient; expected two, so that each training"):
        assign_folds(read_table(tmp_path / "t.csv", labels=["common", "rare"], val_fraction=0, test_fraction=1), 4)


def test_the_file_names_nobody_and_is_read_back(tmp_path: Path) -> None:
    table = table_of(tmp_path)
    folds = assign_folds(table, 3, repeats=2)
    path = tmp_path / "folds.json"
    write_folds(path, table, folds)
    text = path.read_text()
    assert "Doe" not in text
    assert "png" not in text
    again = read_folds(path)
    assert (again.names, again.made) == (folds.names, folds.made)
    np.testing.assert_array_equal(again.numbers, folds.numbers)
    second = read_table(tmp_path / "t.csv", known=split_of_fold(path, 3, repeat=2))
    np.testing.assert_array_equal(second.frame["split"] == "val", folds.numbers[1] == 2)
    for fold, repeat, message in (
        (4, 1, "has 3 folds and 2 repeats: got fold 4"),
        (0, 1, "got fold 0"),
        (1, 3, "got fold 1 of repeat 3"),
    ):
        with pytest.raises(UserError, match=message):
            split_of_fold(path, fold, repeat)


@pytest.mark.parametrize("damage", ["{", "[]", '{"names": []}', None, "numbers", "keys"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str | None) -> None:
    table = table_of(tmp_path)
    path = tmp_path / "folds.json"
    write_folds(path, table, assign_folds(table))
    content = json.loads(path.read_text())
    if damage is None:
        path.unlink()
    elif damage in content:
        content[damage] = [[9] * 90] if damage == "numbers" else content[damage][:-1]
        path.write_text(json.dumps(content))
    else:
        path.write_text(damage)
    with pytest.raises(UserError, match=r"there is no .*folds.json" if damage is None else "folds.json is damaged"):
        read_folds(path)
