"""Learning curves side by side: the same labels and samples, and a regression fitted to them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from tests.conftest import leave_out_figures

from softfree.inference.run import Run
from softfree.reporting.scoring import scores_of
from softfree.study.learning_curve import learning_curve
from softfree.study.options import LearningCurveOptions
from softfree_lab.studies.learning_curves import study_curves
from softfree_lab.studies.options import CurvesOptions
from softfree_lab.studies.trials import TrialKey, read_trials
from softfree_runtime.core.errors import UserError


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory, make_small_table: Callable, quick: dict[str, Any]) -> list[Path]:
    """Two curves of two draws of two folds, with other weights to begin with."""
    folder = tmp_path_factory.mktemp("curves")
    table = make_small_table(folder / "data")
    train = {name: value for name, value in quick.items() if name != "progress"}
    shared: dict[str, Any] = {"folds": 2, "repeats": 2, "fractions": [0.5, 1], "train": train, "progress": False}
    pretrain = {"pretrained": {"epochs": 1, "decoder_depth": 1, "batch_size": 4}, "scratch": {}}
    with leave_out_figures():
        for name, options in pretrain.items():
            learning_curve(table, LearningCurveOptions(out=folder / name, pretrain=options, **shared))
    return [folder / "scratch", folder / "pretrained"]


def test_curves_are_compared_on_the_same_samples(curves: list[Path], tmp_path: Path) -> None:
    text = study_curves(CurvesOptions(out=tmp_path, num_bootstrap=50), list(curves))
    trials = read_trials(tmp_path / "cells.jsonl")
    assert {key.variant for key in trials} == {"scratch", "pretrained", "32 x 32 pixels"}
    assert {(key.data, key.seed, key.fold) for key in trials} == {
        (data, seed, fold) for data in ("0.5 of the labels", "1 of the labels") for seed in (0, 1) for fold in (1, 2)
    }
    for key, trial in trials.items():
        first = trials[key._replace(variant="scratch")]
        assert trial.targets == first.targets
        assert trial.patients == first.patients
    # The third draw is the first fold of the second repeat.
    run = Run.load(curves[1] / "part_0.5" / "members" / "fold1_repeat3")
    frame = run.directory.read_predictions()
    recorded = trials[TrialKey("0.5 of the labels", "pretrained", 1, 1)].scores()
    np.testing.assert_allclose(recorded.targets, scores_of(frame[frame["split"] == "val"], run).targets)
    summary = pd.read_csv(tmp_path / "summary.csv")
    assert summary["seeds"].tolist() == [2] * 6
    assert "**0.5 of the labels**: mean over 2 seeds" in text
    for name in ("summary.md", "summary.png", "cells.csv", "machine.json"):
        assert (tmp_path / name).stat().st_size


def test_curves_of_other_labels_are_refused(curves: list[Path], tmp_path: Path) -> None:
    options = CurvesOptions(out=tmp_path / "out")
    with pytest.raises(UserError, match="holds no finished learning curve; run: softfree learning-curve"):
        study_curves(options, [curves[0], tmp_path])
    with pytest.raises(UserError, match="have one name"):
        study_curves(options, [curves[0], curves[0]])
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(curves[1] / "curve.csv", other)
    settings = yaml.safe_load((curves[1] / "curve.yaml").read_text())
    (other / "curve.yaml").write_text(yaml.safe_dump(settings | {"seed": 7}))
    with pytest.raises(UserError, match=r"other has seed 7, .*scratch has 0; expected learning curves of the same"):
        study_curves(options, [curves[0], other])
    assert not (tmp_path / "out").exists()
