import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from softfree.data.folds import assign_folds
from softfree.data.subsets import check_fractions, nested_folds, positions, training_rows
from softfree.data.table import Table, read_table
from softfree_runtime.core.errors import UserError


def table(folder: Path, patients: int = 60, images: int = 2, shuffle: int | None = None) -> Table:
    rows = [
        (f"{patient}_{image}.png", "ill" if patient % 4 == 0 else "well", f"p{patient}")
        for patient in range(patients)
        for image in range(images)
    ]
    frame = pd.DataFrame(rows, columns=["path", "label", "patient_id"])
    if shuffle is not None:
        frame = frame.sample(frac=1, random_state=shuffle)
    frame.to_csv(folder / "t.csv", index=False)
    return read_table(folder / "t.csv", val_fraction=0.0, test_fraction=1.0)


def test_parts_are_nested_and_stratified_and_keep_patients_whole(tmp_path: Path) -> None:
    whole = table(tmp_path)
    where = positions(whole, seed=0)
    parts = [set(whole.frame["patient_id"][where < fraction]) for fraction in (0.125, 0.25, 0.5, 1.0)]
    assert [len(part) for part in parts] == pytest.approx([8, 15, 30, 60], abs=1)
    assert all(smaller < larger for smaller, larger in itertools.pairwise(parts))
    for part, ill in zip(parts, (2, 4, 8, 15), strict=True):
        assert sum(int(name[1:]) % 4 == 0 for name in part) == pytest.approx(ill, abs=1)
    assert pd.Series(where).groupby(whole.frame["patient"]).nunique().max() == 1


def test_the_choice_depends_on_names_and_seed_not_on_the_order_of_rows(tmp_path: Path) -> None:
    ordered = table(tmp_path)
    chosen = set(ordered.frame["patient_id"][positions(ordered, 3) < 0.5])
    other = set(ordered.frame["patient_id"][positions(ordered, 4) < 0.5])
    mixed = table(tmp_path, shuffle=1)
    assert set(mixed.frame["patient_id"][positions(mixed, 3) < 0.5]) == chosen != other


def test_what_is_held_out_stays_whole(tmp_path: Path) -> None:
    whole = table(tmp_path)
    folds = assign_folds(whole, 3, repeats=2)
    small, all_of_them = (nested_folds(whole, folds, fraction, 0) for fraction in (0.25, 1.0))
    assert small.numbers.shape == (6, 120)
    for draw in range(6):
        repeat, fold = divmod(draw, 3)
        held = folds.numbers[repeat] == fold
        np.testing.assert_array_equal(small.numbers[draw] == fold, held)
        rows = training_rows(small, draw)
        assert not (rows & held).any()
        assert (rows <= training_rows(all_of_them, draw)).all()
        np.testing.assert_array_equal(training_rows(all_of_them, draw), ~held)
        assert rows.sum() == pytest.approx(20, abs=2)
    assert small.made.endswith("; 0.25 of the training patients")


def test_a_part_without_a_class_is_refused(tmp_path: Path) -> None:
    whole = table(tmp_path, patients=12)
    with pytest.raises(UserError, match=r"0.1 of the training patients of fold 1 leaves none with 'ill'"):
        nested_folds(whole, assign_folds(whole, 3), 0.1, 0)


def test_a_number_that_only_one_site_has_is_refused(tmp_path: Path) -> None:
    number = np.arange(40)
    columns = {"path": [f"{n}.png" for n in number], "site": np.repeat(["x", "y"], 20), "grade": number % 2}
    pd.DataFrame(columns | {"age": [*range(20), *[None] * 20]}).to_csv(tmp_path / "t.csv", index=False)
    targets = "- {name: age, kind: regression, column: age}\n- {name: grade, kind: classes, column: grade}\n"
    (tmp_path / "t.yaml").write_text(targets)
    both = read_table(tmp_path / "t.csv", targets=tmp_path / "t.yaml", val_fraction=0.0, test_fraction=1.0)
    with pytest.raises(UserError, match="a known value of target 'age' is only in fold 'x', so that no training that"):
        nested_folds(both, assign_folds(both, by="site"), 0.5, 0)


@pytest.mark.parametrize("fractions", [[0.5], [0.5, 0.5], [0, 1], [0.5, 1.5]])
def test_fractions_that_make_no_curve_are_refused(fractions: list[float]) -> None:
    with pytest.raises(UserError, match="--fractions"):
        check_fractions(fractions)
    assert check_fractions([1, 0.5, 1]) == [0.5, 1]
