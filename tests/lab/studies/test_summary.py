import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from softfree_lab.studies.summary import summarize, to_markdown, trials_table
from softfree_lab.studies.trials import Trial, TrialKey

Make = Callable[..., Trial]


def table(
    trials: list[Trial], variants: list[str], scales: tuple[float, ...] = (1.0,), **options: float
) -> pd.DataFrame:
    return summarize({c.key: c for c in trials}, variants, scales, **{"margin": 0.02, "num_bootstrap": 500, **options})


def test_means_over_seeds(make_trial: Make) -> None:
    trials = [make_trial("softmax", seed, 0.4) for seed in (0, 1, 2)]
    (row,) = table(trials, ["softmax"]).to_dict("records")
    scores = [trial.scores() for trial in trials]
    areas = [roc_auc_score(s.targets, s.probabilities[:, 1]) for s in scores]
    called = [balanced_accuracy_score(s.targets, s.probabilities[:, 1] >= 0.5) for s in scores]
    assert row["auroc"] == pytest.approx(np.mean(areas))
    assert row["auroc_sd"] == pytest.approx(np.std(areas, ddof=1))
    assert row["balanced_accuracy"] == pytest.approx(np.mean(called))
    assert row["auroc_low"] < row["auroc"] < row["auroc_high"]
    assert (row["seeds"], row["cpu_seconds"], row["peak_gib"]) == (3, 6.0, 1.0)
    assert math.isnan(row["auroc_minus"]), "the peer has no difference to itself"


def test_differences_are_paired_by_seed(make_trial: Make) -> None:
    softmax = [make_trial("softmax", seed, 0.4) for seed in range(4)]
    same = [replace(trial, key=trial.key._replace(variant="same")) for trial in softmax]
    row = table([*softmax, *same], ["softmax", "same"]).set_index("variant").loc["same"]
    assert row[["auroc_minus", "auroc_minus_low", "auroc_minus_high"]].tolist() == [0, 0, 0]
    assert row["verdict"] == "not inferior"


def test_other_seeds_and_other_patients_widen_the_interval(make_trial: Make) -> None:
    one = make_trial("softmax", 0, 0.2)
    copies = [replace(one, key=TrialKey("films", "softmax", seed)) for seed in range(5)]
    varied = [make_trial("softmax", seed, noise) for seed, noise in enumerate((0.05, 0.05, 0.05, 0.1, 1.5))]
    width = {}
    for name, trials in (("patients", copies), ("both", varied)):
        (row,) = table(trials, ["softmax"]).to_dict("records")
        width[name] = row["auroc_high"] - row["auroc_low"]
    assert width["patients"] > 0.005
    assert width["both"] > width["patients"]


@pytest.mark.parametrize(("peer", "own", "verdict"), [(0.9, 0.1, "better"), (0.1, 0.9, "inferior"), (0.5, 0.5, "open")])
def test_verdict(make_trial: Make, peer: float, own: float, verdict: str) -> None:
    trials = [make_trial("softmax", seed, peer) for seed in range(3)]
    trials += [replace(make_trial("x", seed + 10, own), key=TrialKey("films", "x", seed)) for seed in range(3)]
    assert table(trials, ["softmax", "x"])["verdict"].tolist() == ["", verdict]


def test_a_cell_that_is_missing_is_left_out_of_the_pairs(make_trial: Make) -> None:
    trials = [make_trial("softmax", 0, 0.3), make_trial("x", 0, 0.1), make_trial("x", 1, 0.1)]
    summary = table(trials, ["softmax", "x", "never"]).set_index("variant")
    assert summary["seeds"].to_dict() == {"softmax": 1, "x": 2}
    assert not math.isnan(summary.loc["x", "auroc_minus"])
    assert math.isnan(table(trials[2:], ["softmax", "x"])["auroc_minus"].iloc[0])


def test_sides_and_data_sets_are_kept_apart(make_trial: Make) -> None:
    trials = [
        make_trial(v, 0, noise, data, scales=("0.5", "1"))
        for data in ("films", "cells")
        for v, noise in (("softmax", 0.3), ("x", 0.2))
    ]
    summary = table(trials, ["softmax", "x"], (0.5, 1.0))
    assert len(summary) == 8
    text = to_markdown(summary, margin=0.02)
    assert text.count("| x |") == 4
    assert "**films**, tested at 0.5 times the side: mean over 1 seeds" in text
    assert len(trials_table({c.key: c for c in trials})) == 8


def test_a_resumed_cell_has_no_time(make_trial: Make) -> None:
    trials = [make_trial("softmax", 0, 0.3), make_trial("softmax", 3, 0.3)]
    trials[0].cost["resumed"] = True
    (row,) = table(trials, ["softmax"]).to_dict("records")
    assert row["cpu_seconds"] == 8.0
