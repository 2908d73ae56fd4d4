"""Which tables training refuses, and what it reads back from its record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from softfree.data.folds import assign_folds, write_folds
from softfree.data.split_file import write_split
from softfree.data.table import read_table
from softfree.inference.run import Run
from softfree.inference.run_directory import RunDirectory
from softfree.training.configuration import check_options, configuration, options_of, read_training_table
from softfree.training.modality import create_preprocessing
from softfree_runtime.core.errors import UserError


@pytest.mark.parametrize("missing", ["train", "val"])
def test_a_table_without_rows_to_learn_or_choose_by_is_refused(options_for, small_table: Path, missing: str) -> None:
    rows = pd.read_csv(small_table)
    rows.assign(split=rows["split"].replace(missing, "test")).to_csv(small_table, index=False)
    with pytest.raises(UserError, match=f"no row in split {missing}"):
        read_training_table(options_for())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ema": 1.5}, "--ema 1.5: expected a number between 0 and 1"),
        ({"ema": 0.0}, "--ema 0.0"),
        ({"label_smoothing": 1.0}, "--label-smoothing 1.0: expected a number from 0 to below 1"),
        ({"patience": 0}, "--patience 0: expected 1 or more"),
        ({"lr": float("nan")}, "--lr nan: expected more than 0"),
        ({"drop_path": 1.0}, "--drop-path 1.0"),
        ({"preset": "photo", "mixup": -0.1}, "--mixup -0.1: expected 0 or more"),
        ({"grad_accum": 0}, "--grad-accum 0: expected 1 or more"),
        ({"warmup_fraction": 1.0}, "--warmup-fraction 1.0: expected a fraction of the steps"),
        ({"teacher_weight": 1.1}, "--teacher-weight 1.1: expected a fraction"),
        ({"num_workers": -1}, "--num-workers -1"),
        ({"seed": -1}, "--seed -1: expected a whole number from 0 to 4294967295"),
        ({"seed": 2**32}, "--seed 4294967296: expected"),
        ({"preset": "photo", "labels": ["one", "two"], "mixup": 0.2}, "--mixup is for exclusive classes"),
        ({"preset": "photo", "labels": ["one", "two"], "cutmix": 0.2}, "--cutmix is for exclusive classes"),
    ],
    ids=str,
)
def test_numbers_that_no_training_can_have(options_for, changes: dict[str, float], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        check_options(options_for(**changes))


def test_the_record_gives_the_options_back_where_the_run_lies_now(options_for, tmp_path: Path) -> None:
    options = options_for(epochs=7, weight_decay=0.2)
    table = read_training_table(options)
    config = configuration(options, table, create_preprocessing(options, table.sources), "computed")
    assert config["notice"] == "computed"
    assert config["model"]["num_classes"] == 2
    config["options"]["of_another_version"] = 1
    read = options_of(config, tmp_path / "moved")
    assert (read.out, read.table, read.image_root) == (tmp_path / "moved", options.table, None)
    assert (read.epochs, read.weight_decay, read.model_options) == (7, 0.2, options.model_options)


def test_the_split_of_a_run_is_kept(options_for, small_table: Path, run: Run) -> None:
    rows = pd.read_csv(small_table)
    known = rows["split"].tolist()
    with pytest.raises(UserError, match="has a split column; use only one of them"):
        read_training_table(options_for(split_from=run.folder))
    rows.drop(columns="split").to_csv(small_table, index=False)
    options = options_for(split_from=run.folder, seed=5)
    table = read_training_table(options)
    assert table.frame["split"].tolist() == known
    assert read_training_table(options_for(seed=5)).frame["split"].tolist() != known
    config = configuration(options, table, create_preprocessing(options, table.sources), None)
    assert options_of(config, small_table).split_from == run.folder


def test_a_training_goes_on_with_the_split_that_was_drawn(options_for, small_table: Path, tmp_path: Path) -> None:
    pd.read_csv(small_table).drop(columns="split").to_csv(small_table, index=False)
    begun = read_training_table(options_for(seed=5))
    options = options_for(seed=5)
    preprocessing = create_preprocessing(options, begun.sources)
    RunDirectory(tmp_path).write_config(configuration(options, begun, preprocessing, None))
    with pytest.raises(UserError, match="the split of its table is unknown"):
        read_training_table(options_for(), tmp_path)
    write_split(tmp_path / "split.csv", begun)
    assert read_training_table(options_for(), tmp_path).frame["split"].tolist() == begun.frame["split"].tolist()


def test_a_fold_replaces_the_split_of_the_table(options_for, small_table: Path, tmp_path: Path) -> None:
    whole = read_table(small_table)
    folds, fold_file = assign_folds(whole, 3), tmp_path / "folds.json"
    write_folds(fold_file, whole, folds)
    options = options_for(fold_file=fold_file, fold=2)
    table = read_training_table(options)
    held = whole.frame["row"][folds.numbers[0] == 1]
    assert set(table.where("val").frame["row"]) == set(held)
    assert len(table.frame) == (whole.frame["split"] != "test").sum()
    directory = RunDirectory(tmp_path / "run")
    directory.root.mkdir()
    directory.write_config(configuration(options, table, create_preprocessing(options, table.sources), None))
    write_split(directory.split, table)
    fold_file.unlink()  # a run is complete without it
    again = read_training_table(options, directory.root)
    assert again.frame[["row", "split"]].equals(table.frame[["row", "split"]])
    assert again.split_made == table.split_made
    write_folds(fold_file, replace(whole, keys=[f"{key}, another" for key in whole.keys]), folds)
    with pytest.raises(UserError, match=r"folds.json was made for another table: it knows no row of .*table.csv"):
        read_training_table(options)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"fold": 1}, "--fold needs --fold-file"),
        ({"fold_file": Path("folds.json")}, "--fold-file needs --fold"),
        ({"fold_file": Path("folds.json"), "fold": 1, "split_from": Path("run")}, "use only one of them"),
    ],
)
def test_a_fold_needs_its_file_and_no_other_split(options_for, changes: dict, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        check_options(options_for(**changes))
