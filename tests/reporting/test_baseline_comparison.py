"""A run's numbers beside those of simpler models, in the report, in metrics.json and on the terminal."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from softfree.evaluation.comparison import compare
from softfree.evaluation.metrics import measure
from softfree.evaluation.scores import Scores
from softfree.inference.run import Run
from softfree.reporting.baseline_comparison import _Resampled, compare_with_baselines
from softfree.reporting.evaluate import evaluate
from softfree.reporting.options import EvaluateOptions
from softfree.reporting.scoring import open_table, scores_of, stored_rows
from softfree.reporting.terminal import print_evaluation, print_training
from softfree_runtime.core.task import Task


@pytest.fixture
def frame(run: Run) -> pd.DataFrame:
    rows = stored_rows(run, open_table(run).where("test"))
    assert rows is not None
    return rows


def simpler(run: Run, frame: pd.DataFrame):
    scores = scores_of(frame, run)
    metrics = measure(scores, None, num_bootstrap=50)
    return compare_with_baselines(run, frame, scores, metrics, seed=0, num_bootstrap=50)


def test_training_leaves_them_beside_its_own_numbers(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
    copy = measured["baselines"]["models"]["32 x 32 pixels"]
    stored = pd.read_csv(run.folder / "predictions.csv")
    test = stored[stored["split"] == "test"]
    positive = run.task.classes[1]
    assert copy["value"] == roc_auc_score(test["target"], test[f"baseline_copy_{positive}"])
    assert copy["n"] == measured["n"] == len(test)
    own = measured["metrics"]["auroc"]["value"]
    assert copy["model_minus_baseline"]["value"] == pytest.approx(own - copy["value"])
    print_training(run, evaluate(run, EvaluateOptions(out=tmp_path, progress=False)))
    output = capsys.readouterr().out
    assert "Regression on 32 x 32 pixels: AUROC 1.000" in output
    assert "None on the size alone: all training samples have one size." in output
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "Comparison with simpler models" in page
    assert "32 x 32 pixels" in page


def test_evaluation_of_the_same_table_keeps_them(run: Run, tmp_path: Path) -> None:
    before = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))["baselines"]
    out = tmp_path / "out"
    out.mkdir()
    evaluate(run, EvaluateOptions(out=out, progress=False))
    assert json.loads((out / "metrics.json").read_text(encoding="utf-8"))["baselines"] == before


def test_another_table_is_read_by_them_too(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images that show the classes the other way round: the regression, which knows them, is wrong each time."""
    source = open_table(run).where("test").frame["file"]
    for number, file in enumerate(source):
        image = Image.open(file)
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(tmp_path / f"{number}.png")
    targets = open_table(run).where("test").targets
    labels = [run.task.classes[int(target)] for target in targets]
    table = tmp_path / "other.csv"
    pd.DataFrame({"path": [f"{n}.png" for n in range(len(labels))], "label": labels}).to_csv(table, index=False)
    out = tmp_path / "out"
    out.mkdir()
    result = evaluate(run, EvaluateOptions(table=table, out=out, progress=False))
    (row,) = result.baselines.rows
    assert (row.name, row.auroc.value) == ("32 x 32 pixels", 0)
    print_evaluation(result)
    assert "Regression on 32 x 32 pixels: AUROC 0.000" in capsys.readouterr().out


def test_a_regression_that_is_as_good_is_said(run: Run, frame: pd.DataFrame) -> None:
    truth = frame["target"].to_numpy(float)
    positive = run.task.classes[1]
    other = run.task.classes[0]
    frame[f"baseline_copy_{positive}"], frame[f"baseline_copy_{other}"] = truth, 1 - truth
    frame[f"logit_{positive}"] = [0.0, 1.0] * (len(frame) // 2)  # of one patient each: chance
    frame[f"logit_{other}"] = 0.0
    (said,) = simpler(run, frame).warnings
    assert said == (
        "A regression on 32 x 32 pixels reaches AUROC 1.000, no less than the model's 0.500: nothing shows that the"
        " model learned more."
    )


def test_a_better_model_is_not_warned_of(run: Run, frame: pd.DataFrame) -> None:
    positive, other = run.task.classes[1], run.task.classes[0]
    frame[f"logit_{positive}"], frame[f"logit_{other}"] = 2 * frame["target"], 0.0
    frame[f"baseline_copy_{positive}"], frame[f"baseline_copy_{other}"] = 0.5, 0.5
    baselines = simpler(run, frame)
    assert baselines.warnings == ()
    comparison = baselines.rows[0].comparison
    assert comparison is not None
    assert comparison.differences["auroc"].value == 0.5


def test_one_draw_of_resamples_serves_all_that_is_asked() -> None:
    """Intervals are those of ``measure`` and ``compare`` with as many resamples."""
    rng, task = np.random.default_rng(0), Task("multilabel", ("x", "y"))
    truth = (rng.random((120, 2)) < 0.4).astype(float)
    truth[:10, 1] = np.nan
    one, other = (
        Scores(task, (0.3 * np.nan_to_num(truth) + 0.7 * rng.random(truth.shape)), truth, np.arange(120) // 2)
        for _ in range(2)
    )
    first, second = (_Resampled(scores, 3, 2000) for scores in (one, other))
    assert first.auroc == measure(one, None, seed=3, num_bootstrap=500)["auroc"]
    whole = compare(one, other, seed=3, num_bootstrap=500)
    assert first.compare_with(second).differences["auroc"] == whole.differences["auroc"]


def test_rows_that_are_streamed_are_left_out_of_both(run: Run, frame: pd.DataFrame) -> None:
    columns = [f"baseline_copy_{name}" for name in run.task.classes]
    frame.loc[:1, columns] = np.nan
    baselines = simpler(run, frame)
    assert baselines.rows[0].auroc.n == len(frame) - 2
    assert baselines.notes[-1] == f"32 x 32 pixels: {len(frame) - 2} of {len(frame)} samples; the others are streamed."
    frame[columns] = np.nan
    baselines = simpler(run, frame)
    assert baselines.rows == ()
    assert baselines.notes[-1] == "None on 32 x 32 pixels here: all samples are streamed."


def test_a_run_of_before_has_none(run: Run, frame: pd.DataFrame, tmp_path: Path) -> None:
    folder = shutil.copytree(run.folder, tmp_path / "run")
    (folder / "baselines.safetensors").unlink()
    baselines = simpler(replace(run, folder=folder), frame)
    assert baselines.to_dict() == {"models": {}, "warnings": [], "notes": []}
