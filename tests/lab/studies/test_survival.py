"""Computed images whose finding sets the hazard of an event."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from softfree.evaluation.kaplan_meier import survival_at
from softfree.evaluation.survival_metrics import c_index
from softfree.inference.run import Run
from softfree_lab.cli import main
from softfree_lab.studies.options import SurvivalStudyOptions
from softfree_lab.studies.survival import CENSORED, END, SCALE, write_images


@pytest.mark.parametrize("finding", ["graded", "present"])
def test_the_finding_sets_the_hazard(tmp_path: Path, finding: str) -> None:
    options = SurvivalStudyOptions(n_train=300, n_val=50, n_test=50, size=16, hazard_ratio=4.0, progress=False)
    frame = pd.read_csv(write_images(tmp_path, options, finding, seed=1))
    rates = np.exp(frame["log_hazard"]) / SCALE
    if finding == "present":
        assert set(np.round(np.exp(frame["log_hazard"]), 9)) == {0.5, 2.0}  # a ratio of four
        present = frame["log_hazard"] > 0
        brightest = np.array([np.asarray(Image.open(tmp_path / name)).max() for name in frame["path"]])
        assert brightest[present].mean() > brightest[~present].mean() + 20
    else:
        assert np.log(4) == pytest.approx(frame["log_hazard"].std(), rel=0.1)  # of one standard deviation
    # Events a unit of time at risk are the rate itself.
    for part in (rates <= rates.median(), rates > rates.median()):
        expected = (frame["days"] * rates)[part].sum()
        assert frame.loc[part, "event"].sum() == pytest.approx(expected, abs=4 * np.sqrt(expected))
    assert frame["days"].max() <= END
    assert (frame["event"] == 0).mean() < SCALE / CENSORED
    assert c_index(frame["log_hazard"].to_numpy(), frame[["days", "event"]].to_numpy()) > 0.6


def test_the_study_compares_with_the_true_hazard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--n-train", "24", "--n-val", "16", "--n-test", "40", "--size", "16", "--epochs", "1", "--batch-size", "8"]
    which = ["--findings", "[present]", "--losses", "[hazard]", "--seeds", "[0]"]
    out = [
        "--work",
        str(tmp_path / "work"),
        "--out",
        str(tmp_path / "s.csv"),
        "--model-options",
        "{depth: 1, patch_size: 8}",
    ]
    assert main(["study", "survival", *size, *which, *out, "--progress=false", "--json"]) == 0
    printed = capsys.readouterr().out
    (row,) = json.loads(printed[printed.index("[\n") :])
    assert row["difference"] == pytest.approx(row["c_index"] - row["true"], abs=1e-6)
    assert row["n"] == 40
    assert 0 < row["true_brier"] < 0.3
    run = Run.load(tmp_path / "work" / "present_seed0" / "hazard")
    survival, frame = run.calibration.survival, run.directory.read_predictions().query("split == 'test'")
    assert survival is not None
    assert (row["slope"], row["level"]) == pytest.approx((survival.slope, survival.level), rel=1e-5)
    raw = replace(survival, slope=1.0, level=0.0)
    logits = frame[[f"logit_{name}" for name in run.task.outputs]].to_numpy()
    observed = survival_at(frame[["target_time", "target_event"]].to_numpy(), np.asarray(survival.horizons))
    for one, name in ((survival, "off"), (raw, "off_uncalibrated")):
        mean = one.probabilities(logits, run.task, np.asarray(survival.horizons)).mean(axis=0)
        assert row[name] == pytest.approx(max(mean - observed, key=abs), rel=1e-4)
    assert "| present | hazard | 0 |" in (tmp_path / "s.md").read_text()
    assert main(["study", "survival", "--hazard-ratio", "1", *out]) == 2
    assert "expected a number above 1" in capsys.readouterr().err
