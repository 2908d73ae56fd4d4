import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from softfree.inference.run import Run
from softfree.study.auto import auto
from softfree.study.options import AutoOptions
from softfree_lab.cli import main
from softfree_runtime.core.outputs import probabilities


@pytest.mark.slow
def test_members_their_ensemble_views_and_averaged_weights(
    make_small_table: Callable, quick: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = make_small_table(tmp_path / "data")
    rows = pd.read_csv(table)
    rows["split"] = np.where(np.arange(len(rows)) // 2 % 4 == 3, "test", "train")
    rows.to_csv(table, index=False)
    train = {name: value for name, value in quick.items() if name not in ("progress", "accelerator")}
    study = tmp_path / "study"
    auto(table, AutoOptions(out=study, folds=2, train=train, progress=False))
    out = tmp_path / "ensemble.csv"
    capsys.readouterr()
    assert main(["study", "ensemble", str(study), "--tta", "3", "--out", str(out), "--progress=false", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    result = pd.read_csv(out).set_index(["samples", "prediction"])
    assert len(printed) == len(result) == 6

    run = Run.load(study)
    held = [member.directory.read_predictions() for member in run.members]
    held = pd.concat([frame[frame["split"] == "val"] for frame in held])
    logits = held[[f"logit_{name}" for name in run.task.classes]].to_numpy()
    expected = roc_auc_score(held["target"], probabilities(logits, run.task)[:, 1])
    np.testing.assert_allclose(result.loc[("held-out folds", "its held-out member"), "auroc"], expected, atol=1e-5)

    test = rows[rows["split"] == "test"]
    images = [str(table.parent / path) for path in test["path"]]
    positive = test["label"] == run.task.classes[1]

    def auroc(which: Run, **options: Any) -> float:
        return roc_auc_score(positive, which.predict(images, **options)[f"p_{run.task.classes[1]}"])

    fixed = result.loc["fixed test rows", "auroc"]
    members = [auroc(member) for member in run.members]
    np.testing.assert_allclose(fixed["mean of the members' AUROCs"], np.mean(members), atol=1e-5)
    np.testing.assert_allclose(fixed["ensemble"], auroc(run), atol=1e-5)
    np.testing.assert_allclose(fixed["ensemble with 3 views"], auroc(run, tta=3), atol=1e-5)
    assert str(tmp_path) not in out.with_suffix(".json").read_text()

    assert main(["study", "ensemble", str(study / "members" / "fold1"), "--out", str(out)]) == 2
    assert "has no members; expected a study of softfree auto" in capsys.readouterr().err
