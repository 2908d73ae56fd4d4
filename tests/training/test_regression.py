"""A number from training to prediction: the same values everywhere, and one line for what does not work."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from softfree.cli.main import main
from softfree.data.folds import assign_folds
from softfree.data.table import read_table
from softfree.inference.run import Run
from softfree_runtime.core.task import Task

MODEL_OPTIONS = {"depth": 1, "embed_dim": 32, "num_heads": 2, "patch_size": 8}
TRAIN = {
    "model": "seqnorm_vit_nano_patch16", "model_options": MODEL_OPTIONS, "size": 32, "epochs": 2, "lr": 0.003,
    "batch_size": 8, "accelerator": "cpu",
}  # fmt: skip
TASK = ["--task", "regression", "--label", "volume"]
QUICK = [
    part for name, value in TRAIN.items() for part in (f"--{name.replace('_', '-')}", json.dumps(value).strip('"'))
]

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 48 small images whose brightness grows with a number in thousands; 24 are for training."""
    folder, rng = tmp_path_factory.mktemp("volumes"), np.random.default_rng(0)
    rows = []
    for number in range(48):
        volume = rng.uniform(2000, 4000)
        pixels = rng.integers(0, 60, (40, 40), dtype=np.uint8)
        pixels[:20] += np.uint8((volume - 2000) / 15)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        split = "train" if number < 24 else "val" if number < 36 else "test"
        rows.append((f"{number}.png", round(volume, 1), f"p{number}", split, "AB"[number % 2]))
    table = pd.DataFrame(rows, columns=["path", "volume", "patient_id", "split", "site"])
    table.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


@pytest.fixture(scope="module")
def run(volumes: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", str(volumes), *TASK, *QUICK, "--no-progress", "--out", str(out)]) == 0
    return Run.load(out)


@pytest.fixture(scope="module")
def study(volumes: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "study"
    train = ["--train", json.dumps(TRAIN), "--folds", "2", "--no-progress"]
    assert main(["auto", str(volumes), *TASK, *train, "--out", str(out)]) == 0
    return Run.load(out)


def test_the_run_keeps_the_scale_of_its_training_rows(run: Run, volumes: Path) -> None:
    table = pd.read_csv(volumes)
    own = table.loc[table["split"] == "train", "volume"]
    assert run.task == Task("regression", ("volume",))
    assert run.config["target"] == pytest.approx({"mean": own.mean(), "standard_deviation": own.std(ddof=0)})
    scale = run.calibration.scale
    assert scale is not None
    assert (scale.offset, 1 / run.calibration.temperature) == pytest.approx((own.mean(), own.std(ddof=0)))
    frame = run.directory.read_predictions()
    val = frame[frame["split"] == "val"]
    errors = np.sort(np.abs(val["value"] - val["target"]))
    assert scale.half_width == pytest.approx(errors[11])  # ceil(0.9 (12 + 1)) = 12 of 12 patients
    np.testing.assert_allclose(frame["high"] - frame["value"], scale.half_width)
    metrics = run.directory.read_metrics()["metrics"]
    test = frame[frame["split"] == "test"]
    assert metrics["mae"]["value"] == pytest.approx(np.abs(test["value"] - test["target"]).mean())
    report = run.directory.report.read_text(encoding="utf-8")
    assert "Bland-Altman plot" in report
    assert "Ridge regressions" in report


@pytest.mark.slow
def test_evaluation_prediction_and_export_agree(run: Run, volumes: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from softfree_runtime.prediction import predict

    stored = run.directory.read_predictions().set_index("row")
    out = ["--include-training", "--split", "test", "--subgroups", "[site]", "--out", str(tmp_path / "e")]
    assert main(["evaluate", str(run.folder), str(volumes), *out]) == 0
    again = pd.read_csv(tmp_path / "e" / "predictions.csv").set_index("row")
    np.testing.assert_allclose(again["value"], stored.loc[again.index, "value"], atol=0.01)
    assert main(["predict", str(run.folder), str(volumes), "--out", str(tmp_path / "p.csv")]) == 0
    rows = pd.read_csv(tmp_path / "p.csv")
    np.testing.assert_allclose(rows.loc[again.index, "value"], again["value"], atol=0.01)
    file = tmp_path / "model.onnx"
    assert main(["export", str(run.folder), "--out", str(file)]) == 0
    light = pd.DataFrame(predict(file, str(volumes)))
    for name in ("value", "low", "high"):
        np.testing.assert_allclose(light[name].astype(float), rows[name], atol=0.05)


def test_a_study_predicts_the_mean_of_its_members(study: Run, volumes: Path, tmp_path: Path) -> None:
    image = str(volumes.parent / "40.png")
    whole = study.predict(image)
    single = [member.predict(image)["value"][0] for member in study.members]
    assert len(single) == 2
    assert whole["value"][0] == pytest.approx(np.mean(single), abs=0.01)
    assert whole["disagreement"][0] == pytest.approx(np.std(single), abs=0.01)
    frame = study.directory.read_predictions()
    for member in study.members:
        held = member.directory.read_predictions().query("split == 'val'").set_index("row")["value"]
        np.testing.assert_allclose(frame.set_index("row").loc[held.index, "value"], held, atol=0.01)
    metrics = study.directory.read_metrics()["metrics"]
    assert metrics["mae"]["value"] == pytest.approx(np.abs(frame["value"] - frame["target"]).mean())
    # The interval of a row is chosen on the other fold.
    for fold, rows in frame.groupby("fold"):
        others = frame[frame["fold"] != fold]
        errors = np.sort(np.abs(others["value"] - others["target"]))
        position = int(np.ceil(0.9 * (len(errors) + 1))) - 1
        np.testing.assert_allclose(rows["half_width"], errors[position])


@pytest.mark.slow
def test_an_exported_study_gives_the_same_number(study: Run, volumes: Path, tmp_path: Path) -> None:
    """Slow: the export of a run and of a study of classes is tested in time, and the mean of the members here."""
    pytest.importorskip("onnxruntime")
    from softfree_runtime.prediction import predict

    image = str(volumes.parent / "40.png")
    whole = study.predict(image)
    assert main(["export", str(study.folder), "--out", str(tmp_path / "study.onnx")]) == 0
    assert predict(tmp_path / "study.onnx", image)[0]["value"] == pytest.approx(whole["value"][0], abs=0.05)


def test_two_runs_are_compared_by_their_errors(
    run: Run, study: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = ["--compare-with", str(run.folder), "--out", str(tmp_path / "c"), "--json"]
    assert main(["evaluate", str(run.folder), "--split", "test", *out]) == 0
    comparison = json.loads(capsys.readouterr().out)["comparison"]
    assert list(comparison["differences"]) == ["mae", "rmse", "r2"]
    assert comparison["differences"]["mae"]["value"] == 0


def test_runs_are_compared_side_by_side(
    run: Run, volumes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    assert main(["train", str(volumes), *TASK, *QUICK, "--seed", "1", "--no-progress", "--out", str(other)]) == 0
    capsys.readouterr()
    out = ["--margin", "500", "--out", str(tmp_path / "c")]
    assert main(["compare", str(run.folder), str(other), *out]) == 0
    printed = capsys.readouterr().out
    assert "absolute" in printed
    assert "AUROC" not in printed
    rows = pd.read_csv(tmp_path / "c" / "comparison.csv").set_index("run")
    frames = [Run.load(folder).directory.read_predictions().query("split == 'test'") for folder in (run.folder, other)]
    errors = [(frame["value"] - frame["target"]).abs().mean() for frame in frames]
    np.testing.assert_allclose(rows["mae"], errors)
    assert rows["difference"].iloc[1] == pytest.approx(errors[1] - errors[0])
    assert rows["difference_low"].iloc[1] < rows["difference"].iloc[1] < rows["difference_high"].iloc[1]
    page = (tmp_path / "c" / "comparison.html").read_text(encoding="utf-8")
    assert "Left of the line: better." in page


def test_a_map_splits_the_number(run: Run, volumes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The values of a map sum to the predicted number minus the mean of the training targets, in their unit."""
    image = str(volumes.parent / "40.png")
    assert main(["explain", str(run.folder), image, "--method", "split", "--json", "--out", str(tmp_path)]) == 0
    output = capsys.readouterr()
    row = json.loads(output.out)[0]
    mean, value = run.config["target"]["mean"], run.predict(image)["value"][0]
    assert row["predicted"] == pytest.approx(value, abs=0.01)
    assert row["above_mean"] == pytest.approx(value - mean, abs=0.01)
    assert row["sum"] == pytest.approx(value - mean, abs=0.01)
    assert "parts of the predicted volume minus the mean of training" in row["description"]
    assert "log odds" not in output.out + output.err
    assert (tmp_path / "40_map.png").is_file()


def test_an_ensemble_explains_the_mean_of_its_members(
    study: Run, volumes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(volumes.parent / "40.png")
    assert main(["explain", str(study.folder), image, "--method", "split", "--json", "--out", str(tmp_path)]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    scale = study.calibration.scale
    assert scale is not None
    value = study.predict(image)["value"][0]
    assert row["predicted"] == pytest.approx(value, abs=0.01)
    assert row["sum"] == pytest.approx(value - scale.offset, abs=0.01)


def test_options_are_searched_by_the_error(volumes: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    train = json.dumps({name: value for name, value in TRAIN.items() if name != "lr"})
    space = ["--space", "{lr: [0.0001, 0.01]}", "--trials", "2", "--no-progress", "--out", str(tmp_path / "t")]
    assert main(["tune", str(volumes), *TASK, "--train", train, *space]) == 0
    trials = pd.read_csv(tmp_path / "t" / "trials.csv")
    best = trials.loc[trials["mae"].idxmin()]
    assert f"lr: {best['lr']:g}" in (tmp_path / "t" / "best.yaml").read_text()
    assert "mean absolute error" in (tmp_path / "t" / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_learning_curve_of_errors(volumes: Path, tmp_path: Path) -> None:
    """Slow: eight trainings."""
    out = ["--train", json.dumps(TRAIN), "--folds", "2", "--no-progress", "--out", str(tmp_path / "curve")]
    assert main(["learning-curve", str(volumes), *TASK, "--fractions", "[0.4, 0.6, 0.8, 1]", *out]) == 0
    curve = pd.read_csv(tmp_path / "curve" / "curve.csv")
    assert (curve["mae"] > 0).all()
    assert "mean absolute error" in (tmp_path / "curve" / "report.html").read_text(encoding="utf-8")


def test_documents_speak_of_a_number(run: Run, tmp_path: Path) -> None:
    assert main(["report", str(run.folder), "--no-docx", "--out", str(tmp_path / "d")]) == 0
    text = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "d").glob("*.md"))
    assert "The model predicts a number, volume." in text
    assert "mutually exclusive" not in text
    assert "AUROC" not in text


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["compare", "RUN", "RUN"], "named twice"),
        (["export", "RUN", "--precision", "fp16"], "which a regression does not have; export fp32"),
        (["evaluate", "RUN", "--maps", "2"], "--maps works on classes or findings"),
        (["evaluate", "RUN", "--prevalence", "0.1"], "--prevalence works on classes or findings"),
        (["train", "TABLE", *TASK, "--mixup", "0.2"], "--mixup"),
        (["train", "TABLE", *TASK, "--class-weights"], "--class-weights is for classes or findings"),
        (["train", "TABLE", "--label", "site", "--loss", "mse"], "--loss mse is for --task regression"),
        (["train", "TABLE", "--task", "regression", "--label", "site"], "'A' in column 'site'"),
    ],
)
def test_what_a_regression_does_not_have(
    run: Run, volumes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], why: str
) -> None:
    names = {"RUN": str(run.folder), "TABLE": str(volumes), "IMAGE": str(volumes.parent / "0.png")}
    arguments = [names.get(part, part) for part in command]
    if command[0] in ("tune", "learning-curve", "train", "explain", "compare"):
        arguments += ["--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert why in error.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_folds_spread_the_numbers(volumes: Path) -> None:
    frame = pd.read_csv(volumes).drop(columns="split")
    frame.to_csv(volumes.with_name("whole.csv"), index=False)
    table = read_table(volumes.with_name("whole.csv"), label="volume", task="regression")
    assert set(table.frame["split"]) == {"train", "val", "test"}
    folds = assign_folds(table, 4)
    means = [table.targets[folds.numbers[0] == fold].mean() for fold in range(4)]
    assert np.ptp(means) < 250  # of a range of 2000
