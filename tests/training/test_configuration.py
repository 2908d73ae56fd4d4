"""Which tables a training refuses, and what it reads back of its record."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from softfree.errors import UserError
from softfree.training.configuration import configuration, options_of, read_training_table


@pytest.mark.parametrize("missing", ["train", "val"])
def test_a_table_without_rows_to_learn_or_choose_by_is_refused(options_for, small_table: Path, missing: str) -> None:
    rows = pd.read_csv(small_table)
    rows.assign(split=rows["split"].replace(missing, "test")).to_csv(small_table, index=False)
    with pytest.raises(UserError, match=f"no row in split {missing}"):
        read_training_table(options_for())


def test_patience_needs_both_classes_to_wait_for(options_for, small_table: Path) -> None:
    rows = pd.read_csv(small_table)
    rows[(rows["split"] != "val") | (rows["label"] == "low")].to_csv(small_table, index=False)
    assert len(read_training_table(options_for()).where("val").frame) == 4
    with pytest.raises(UserError, match="--patience needs validation images of both sorts"):
        read_training_table(options_for(patience=2))


def test_the_record_gives_the_options_back_where_the_run_lies_now(options_for, tmp_path: Path) -> None:
    options = options_for(epochs=7, weight_decay=0.2)
    config = configuration(options, read_training_table(options), "computed")
    assert config["notice"] == "computed"
    assert config["model"]["num_classes"] == 2
    config["options"]["of_another_version"] = 1
    read = options_of(config, tmp_path / "moved")
    assert (read.out, read.table, read.images) == (tmp_path / "moved", options.table, None)
    assert (read.epochs, read.weight_decay, read.model_options) == (7, 0.2, options.model_options)
