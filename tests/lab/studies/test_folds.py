from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from softfree.core.options import TrainOptions
from softfree.data.folds import read_folds
from softfree.training.configuration import read_training_table
from softfree_lab.studies.folds import draw_folds, pool_folds
from softfree_lab.studies.trials import Trial, TrialKey
from softfree_runtime.core.errors import UserError


def test_each_image_is_held_out_once_whatever_its_split_is(small_table: Path, tmp_path: Path) -> None:
    table = pd.read_csv(small_table)
    table["split"] = ["test", "extra", *["train"] * (len(table) - 2)]
    table.to_csv(small_table, index=False)
    path = tmp_path / "folds" / "films.json"
    draw_folds(small_table, {}, 3, path)
    held = []
    for fold in range(1, 4):
        rows = read_training_table(TrainOptions(table=small_table, fold_file=path, fold=fold))
        assert set(rows.frame["split"]) == {"train", "val"}
        held += rows.where("val").frame["row"].tolist()
    assert sorted(held) == [row for row in range(len(table)) if row != 1]
    first = read_folds(path).numbers
    draw_folds(small_table, {}, 3, path)
    np.testing.assert_array_equal(read_folds(path).numbers, first)


def test_too_few_patients_are_refused(small_table: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"class 'high' has 8 patients; expected one for each fold"):
        draw_folds(small_table, {}, 9, tmp_path / "folds.json")


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
