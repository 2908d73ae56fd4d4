from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from softfree_lab.studies.coverage import simulate, study_coverage, to_markdown
from softfree_lab.studies.options import CoverageOptions


def test_a_small_study_counts_what_holds_and_what_is_not_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softfree_lab.studies.coverage.POPULATION", 4000)
    options = CoverageOptions(
        patients=[4, 40], images=[2], positives=[0.5], separations=[1.0], spreads=[1.0], repeats=6, num_bootstrap=60,
        out=tmp_path / "out", progress=False,
    )  # fmt: skip
    text = study_coverage(options)
    result = pd.read_csv(tmp_path / "out" / "coverage.csv")
    assert set(result["metric"]) >= {"auroc", "auroc difference", "accuracy", "brier", "sensitivity/present"}
    few, many = (result[result["patients"] == number].set_index("metric") for number in (4, 40))
    assert (few["given"] == 0).all()
    assert (many.loc[["auroc", "accuracy"], "given"] == 1).all()
    assert many.loc["auroc", "held"] >= 4 / 6
    assert many["truth"].between(0, 1).all()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "coverage.csv", "coverage.md", "coverage.png", "machine.json",
    ]  # fmt: skip
    assert "none given" in text
    again = simulate(options)
    assert to_markdown(again) == text
    pd.testing.assert_frame_equal(again.round(4), result)
