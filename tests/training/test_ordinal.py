"""Ordered classes from training to prediction: the same values everywhere, and one line for what does not fit."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from softfree.cli.main import main
from softfree.data.table import read_table
from softfree.inference.run import Run
from softfree.reporting.scoring import scores_of
from softfree_runtime.core.outputs import probabilities
from softfree_runtime.core.task import Task

ORDER = ("none", "mild", "severe")
SMALL = "{depth: 1, embed_dim: 32, num_heads: 2, patch_size: 8}"
QUICK = ["--epochs", "2", "--accelerator", "cpu", "--progress", "false", "--lr", "0.003", "--batch-size", "8"]
MODEL = ["--model", "seqnorm_vit_nano_patch16", "--model-options", SMALL, "--size", "32"]
TASK = ["--task", "ordinal", "--label", "grade", "--classes-in-order", "[none, mild, severe]"]

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture(scope="module")
def grades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 36 small images whose brightness has three grades, 24 of them for training."""
    folder, rng = tmp_path_factory.mktemp("grades"), np.random.default_rng(0)
    rows = []
    for number in range(36):
        pixels = rng.integers(0, 60, (40, 40), dtype=np.uint8)
        pixels[:20] += np.uint8(number % 3 * 60)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(
            (f"{number}.png", ORDER[number % 3], f"p{number}", ["train", "val", "test"][max(0, number // 6 - 3)])
        )
    pd.DataFrame(rows, columns=["path", "grade", "patient_id", "split"]).to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


@pytest.fixture(scope="module")
def run(grades: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("softfree.evaluation.report._figures", lambda report, matrix: {})
        assert main(["train", str(grades), *TASK, *MODEL, *QUICK, "--out", str(out)]) == 0
    return Run.load(out)


def test_the_run_knows_the_order(run: Run) -> None:
    assert run.task == Task("ordinal", ORDER)
    assert run.config["model"]["num_classes"] == 2
    metrics = run.directory.read_metrics()
    assert metrics["task"] == "ordinal"
    assert {"quadratic_kappa", "mae", "auroc", "auroc_above/none", "auroc_above/mild"} <= metrics["metrics"].keys()
    report = run.directory.report.read_text(encoding="utf-8")
    assert "AUROC, mean over cuts between classes" in report
    assert "Quadratic weighted kappa" in report


def test_evaluation_repeats_the_values_of_training(run: Run, grades: Path, tmp_path: Path) -> None:
    of_training = run.directory.read_metrics()["metrics"]
    out = ["--split", "test", "--include-training", "--out", str(tmp_path / "e")]
    assert main(["evaluate", str(run.folder), str(grades), *out]) == 0
    again = pd.read_csv(tmp_path / "e" / "predictions.csv")
    stored = run.directory.read_predictions()
    columns = [f"p_{name}" for name in ORDER]
    held = stored[stored["split"] == "test"]
    np.testing.assert_allclose(again[columns], held[columns], atol=1e-5)
    p = probabilities(held[["logit_above_none", "logit_above_mild"]].to_numpy(), run.task, run.calibration.temperature)
    np.testing.assert_allclose(held[columns], p, rtol=1e-6)
    scores = scores_of(held, run)
    predicted = held["predicted"].map(ORDER.index).to_numpy()
    assert of_training["mae"]["value"] == pytest.approx(np.abs(predicted - scores.targets).mean())


@pytest.mark.slow
def test_prediction_and_export_agree(run: Run, grades: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from softfree_runtime.prediction import predict

    file = tmp_path / "model.onnx"
    assert main(["export", str(run.folder), "--out", str(file)]) == 0
    assert main(["predict", str(run.folder), str(grades), "--out", str(tmp_path / "p.csv")]) == 0
    rows = pd.read_csv(tmp_path / "p.csv")
    light = pd.DataFrame(predict(file, str(grades)))
    for name in ORDER:
        np.testing.assert_allclose(light[f"p_{name}"].astype(float), rows[f"p_{name}"], atol=1e-4)
    assert light["predicted"].tolist() == rows["predicted"].tolist()
    assert light["set"].tolist() == rows["set"].tolist()


def test_two_runs_are_compared_by_their_grades(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = ["--compare-with", str(run.folder), "--out", str(tmp_path / "c"), "--json"]
    assert main(["evaluate", str(run.folder), "--split", "test", *out]) == 0
    text = capsys.readouterr().out
    assert "quadratic_kappa" in text
    assert "mae" in text


def test_a_map_explains_reaching_a_grade(run: Run, grades: Path) -> None:
    from softfree.saliency.captions import describe_maps
    from softfree.saliency.maps import explain_tensor

    sample = torch.from_numpy(run.preprocessing.load(str(grades.parent / "0.png")))
    map_ = explain_tensor(run, sample, target="mild")
    assert "mild or above" in describe_maps(run, [map_]).title


def test_an_ensemble_has_the_mean_logits_of_its_members(grades: Path, tmp_path: Path) -> None:
    train = f"{{model: seqnorm_vit_nano_patch16, model_options: {SMALL}, size: 32, epochs: 1, batch_size: 8}}"
    options = ["--train", train, "--folds", "2", "--ignore-split", "--no-progress", "--out", str(tmp_path / "study")]
    assert main(["auto", str(grades), *TASK, *options]) == 0
    study = Run.load(tmp_path / "study")
    assert study.task == Task("ordinal", ORDER)
    images = [str(grades.parent / f"{number}.png") for number in range(4)]
    rows = study.predict(images)
    samples = torch.stack([torch.from_numpy(study.preprocessing.load(image)) for image in images])
    with torch.inference_mode():
        each = [member.model(samples).double().numpy() / member.calibration.temperature for member in study.members]
    columns = [f"p_{name}" for name in ORDER]
    assert len(each) == 2
    np.testing.assert_allclose(rows[columns], probabilities(np.mean(each, axis=0), study.task), atol=1e-5)
    np.testing.assert_allclose(rows[columns].sum(axis=1), 1)
    spread = np.std([probabilities(logits, study.task) for logits in each], axis=0).max(axis=1)
    np.testing.assert_allclose(rows["disagreement"], spread, atol=1e-5)
    frame = study.directory.read_predictions()
    held = probabilities(frame[["logit_above_none", "logit_above_mild"]].to_numpy(), study.task)
    np.testing.assert_allclose(frame[columns], held, rtol=1e-6)
    predicted = frame["predicted"].map(ORDER.index).to_numpy()
    metrics = study.directory.read_metrics()["metrics"]
    assert metrics["mae"]["value"] == pytest.approx(np.abs(predicted - frame["target"]).mean())


def test_a_table_without_an_order_is_refused(grades: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "run")]
    assert main(["train", str(grades), "--task", "ordinal", "--label", "grade", *MODEL, *QUICK, *out]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert "--classes-in-order" in error
    assert not (tmp_path / "run").exists()


def test_numbers_may_be_given_as_an_order(grades: Path) -> None:
    frame = pd.read_csv(grades)
    frame["grade"] = frame["grade"].map(dict(zip(ORDER, (2, 10, 1), strict=True)))
    frame.to_csv(grades.with_name("numbers.csv"), index=False)
    table = read_table(grades.with_name("numbers.csv"), label="grade", task="ordinal")
    assert table.task == Task("ordinal", ("1", "2", "10"))
