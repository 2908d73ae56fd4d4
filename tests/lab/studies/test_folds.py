from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from softfree.data.table import read_table
from softfree_lab.studies.folds import pool_folds, write_folds
from softfree_lab.studies.trials import Trial, TrialKey
from softfree_runtime.core.errors import UserError


def folds_of(table: Path, folds: int, out: Path, **options: object) -> list[pd.DataFrame]:
    paths = write_folds(table, options, folds, out)
    return [read_table(path, image_root=table.parent, **options).frame for path in paths]


def test_each_image_is_tested_once_and_patients_stay_whole(small_table: Path, tmp_path: Path) -> None:
    frames = folds_of(small_table, 4, tmp_path / "folds")
    assert len(frames) == 4
    tested = pd.concat([frame[frame["split"] == "test"] for frame in frames])
    assert sorted(tested["file"]) == sorted(read_table(small_table).sources)
    for frame in frames:
        assert set(frame["split"]) == {"train", "val", "test"}
        assert frame.groupby("patient_id")["split"].nunique().max() == 1
        shares = frame.groupby("split")["label"].value_counts(normalize=True)
        assert shares.between(0.4, 0.6).all(), "both classes in each part, as in the table"
        assert "p0" in set(frame["patient_id"]), "numbers instead of ids"


def test_the_parts_are_the_same_each_time_and_leave_extra_rows_out(small_table: Path, tmp_path: Path) -> None:
    table = pd.read_csv(small_table)
    table["split"] = "train"
    table.loc[:1, "split"] = "extra"
    table.to_csv(small_table, index=False)
    first, again = (folds_of(small_table, 3, tmp_path / name) for name in ("first", "again"))
    for one, other in zip(first, again, strict=True):
        pd.testing.assert_frame_equal(one, other)
    assert all(len(frame) == len(table) - 2 for frame in first)


def test_too_few_patients_or_folds_are_refused(small_table: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"class 'high' has 8 patients; expected one for each fold"):
        write_folds(small_table, {}, 9, tmp_path)
    with pytest.raises(UserError, match="expected 2 or more"):
        write_folds(small_table, {}, 1, tmp_path)


def trial(variant: str, fold: int, targets: list[int], patients: list[int]) -> Trial:
    probabilities = [[1 - 0.1 * fold, 0.1 * fold]] * len(targets)
    cost = {"seconds": 2.0, "cpu_seconds": 1.0, "peak_bytes": fold, "resumed": False}
    key = TrialKey("films", variant, 0, fold)
    return Trial(key, {}, "binary", ["a", "b"], targets, patients, {"1": probabilities}, cost, curve=[(1, 0.5)])


def test_folds_are_pooled_in_their_order_with_patients_apart() -> None:
    parts = [trial("x", 2, [1, 0], [0, 0]), trial("x", 1, [0, 1, 1], [0, 1, 1]), trial("y", 1, [0], [0])]
    pooled = pool_folds({part.key: part for part in parts})
    assert list(pooled) == [TrialKey("films", "x", 0)], "y has no second fold"
    both = pooled[TrialKey("films", "x", 0)]
    assert both.targets == [0, 1, 1, 1, 0]
    assert both.patients == [0, 1, 1, 2, 2]
    np.testing.assert_allclose([row[1] for row in both.probabilities["1"]], [0.1, 0.1, 0.1, 0.2, 0.2])
    assert (both.cost["cpu_seconds"], both.cost["peak_bytes"], both.curve) == (2.0, 2, [])


def test_without_folds_a_trial_is_as_it_was() -> None:
    alone = trial("x", 0, [0, 1], [0, 1])
    assert pool_folds({alone.key: alone}) == {alone.key: alone}
