"""Survival from the table to prediction: the same risks everywhere, and one line for what does not work."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from softfree.cli.main import main
from softfree.evaluation.survival_calibration import fit_cox_slope, fit_hazards
from softfree.evaluation.survival_metrics import c_index
from softfree.inference.run import Run
from softfree_runtime.core.survival import Survival

MODEL_OPTIONS = {"depth": 1, "embed_dim": 32, "num_heads": 2, "patch_size": 8}
TRAIN = {
    "model": "seqnorm_vit_nano_patch16", "model_options": MODEL_OPTIONS, "size": 32, "epochs": 2, "lr": 0.003,
    "batch_size": 8, "accelerator": "cpu",
}  # fmt: skip
TASK = ["--task", "survival", "--label", "days", "--event", "died"]
QUICK = [
    part for name, value in TRAIN.items() for part in (f"--{name.replace('_', '-')}", json.dumps(value).strip('"'))
]

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 60 small images whose brighter half is larger the higher the hazard; 30 are for training."""
    folder, rng = tmp_path_factory.mktemp("survival"), np.random.default_rng(0)
    rows = []
    for number in range(60):
        grade = rng.uniform()
        pixels = rng.integers(0, 60, (40, 40), dtype=np.uint8)
        pixels[: int(40 * grade)] += 100
        Image.fromarray(pixels).save(folder / f"{number}.png")
        time, end = rng.exponential(300 / np.exp(4 * (grade - 0.5))), rng.uniform(200, 1500)
        split = "train" if number < 30 else "val" if number < 45 else "test"
        rows.append(
            (f"{number}.png", round(min(time, end), 1), int(time <= end), f"p{number}", split, "AB"[number % 2])
        )
    table = pd.DataFrame(rows, columns=["path", "days", "died", "patient_id", "split", "site"])
    table.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


@pytest.fixture(scope="module")
def run(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "run"
    horizons = ["--horizons", "[50, 200]", "--patience", "5"]
    assert main(["train", str(path), *TASK, *QUICK, *horizons, "--no-progress", "--out", str(out)]) == 0
    return Run.load(out)


@pytest.fixture(scope="module")
def cox(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "cox"
    assert main(["train", str(path), *TASK, *QUICK, "--loss", "cox", "--no-progress", "--out", str(out)]) == 0
    return Run.load(out)


def test_a_run_keeps_intervals_and_horizons(run: Run, path: Path) -> None:
    train = pd.read_csv(path).query("split == 'train' and died == 1")["days"]
    assert run.task.kind == "survival"
    assert run.task.cuts[-1] == train.max()
    assert set(run.task.cuts) <= set(train)
    assert run.config["model"]["num_classes"] == len(run.task.cuts)
    assert run.config["target"] == {"horizons": [50, 200]}
    frame = run.directory.read_predictions()
    assert (frame["survival_200"] < frame["survival_50"]).all()
    held, survival = frame[frame["split"] == "val"], run.calibration.survival
    outputs = held[[f"logit_{name}" for name in run.task.outputs]].to_numpy()
    fitted = fit_hazards(outputs, held[["target_time", "target_event"]].to_numpy(), run.task.cuts)
    assert survival == Survival((50.0, 200.0), slope=fitted[0], level=fitted[1])
    test = frame[frame["split"] == "test"]
    metrics = run.directory.read_metrics()["metrics"]
    expected = c_index(test["risk"].to_numpy(), test[["target_time", "target_event"]].to_numpy())
    assert metrics["c_index"]["value"] == pytest.approx(expected)
    assert {"auroc_at/50", "auroc_at/200", "brier_at/50", "brier_at/200", "integrated_brier"} < set(metrics)
    report = run.directory.report.read_text(encoding="utf-8")
    for text in ("C-index of days", "Free of the event by risk", "Cox regressions", "Log-rank test between them"):
        assert text in report
    history = run.directory.read_history()
    assert history is not None
    assert history["val_c_index"].between(0, 1).all()


@pytest.mark.slow
def test_evaluation_prediction_and_export_agree(run: Run, cox: Run, path: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from softfree_runtime.prediction import predict

    for one in (run, cox):
        stored = one.directory.read_predictions().set_index("row")
        out = [
            "--include-training",
            "--split",
            "test",
            "--subgroups",
            "[site]",
            "--out",
            str(tmp_path / one.folder.name),
        ]
        assert main(["evaluate", str(one.folder), str(path), *out]) == 0
        again = pd.read_csv(tmp_path / one.folder.name / "predictions.csv").set_index("row")
        assert main(["predict", str(one.folder), str(path), "--out", str(tmp_path / "p.csv")]) == 0
        rows = pd.read_csv(tmp_path / "p.csv")
        file = tmp_path / "model.onnx"
        assert main(["export", str(one.folder), "--out", str(file)]) == 0
        light = pd.DataFrame(predict(file, str(path)))
        names = [name for name in rows if name == "risk" or name.startswith("survival_")]
        assert len(names) >= 3
        for name in names:
            np.testing.assert_allclose(again[name], stored.loc[again.index, name], atol=1e-4)
            np.testing.assert_allclose(rows.loc[again.index, name], again[name], atol=1e-4)
            np.testing.assert_allclose(light[name].astype(float), rows[name], atol=1e-4)


def test_a_cox_run_has_the_baseline_of_its_validation_rows(cox: Run) -> None:
    survival = cox.calibration.survival
    assert survival is not None
    frame = cox.directory.read_predictions().query("split == 'val'")
    assert survival.center == pytest.approx(frame["logit_log_hazard"].mean())
    np.testing.assert_allclose(frame["risk"], survival.slope * (frame["logit_log_hazard"] - survival.center))
    targets = frame[["target_time", "target_event"]].to_numpy()
    assert survival.slope == fit_cox_slope(frame["logit_log_hazard"].to_numpy(), targets)
    ratios, hazard, steps = np.exp(frame["risk"].to_numpy()), 0.0, []
    for time in np.sort(frame.loc[frame["target_event"] == 1, "target_time"].unique()):
        own = (frame["target_time"] == time) & (frame["target_event"] == 1)
        hazard += own.sum() / ratios[(frame["target_time"] >= time).to_numpy()].sum()
        steps.append(hazard)
    np.testing.assert_allclose(survival.hazards[:-1], steps)
    at = np.searchsorted(survival.times, survival.horizons[0], side="right") - 1
    name = f"survival_{survival.horizons[0]:g}"
    np.testing.assert_allclose(frame[name], np.exp(-survival.hazards[at] * ratios))


def test_both_losses_are_compared(run: Run, cox: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["compare", str(run.folder), str(cox.folder), "--out", str(tmp_path / "c")]) == 0
    assert "C-index" in capsys.readouterr().out
    rows = pd.read_csv(tmp_path / "c" / "comparison.csv")
    values = [one.directory.read_metrics()["metrics"]["c_index"]["value"] for one in (run, cox)]
    np.testing.assert_allclose(rows["c_index"], values)
    out = ["--compare-with", str(run.folder), "--out", str(tmp_path / "e"), "--json"]
    assert main(["evaluate", str(run.folder), "--split", "test", *out]) == 0
    differences = json.loads(capsys.readouterr().out)["comparison"]["differences"]
    assert differences["c_index"]["value"] == 0
    assert "integrated_brier" in differences


def test_a_cox_loss_says_what_batches_change(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*TASK, *QUICK, "--loss", "cox", "--batch-size", "4", "--grad-accum", "2", "--epochs", "1"]
    assert main(["train", str(path), *options, "--no-progress", "--out", str(tmp_path / "r")]) == 0
    said = " ".join("".join(capsys.readouterr()).split())
    assert "compares only the 4 samples of a batch; --grad-accum 2 adds such comparisons" in said


@pytest.mark.parametrize("loss", ["hazard", pytest.param("cox", marks=pytest.mark.slow)])
def test_a_study_shares_its_intervals(path: Path, tmp_path: Path, loss: str) -> None:
    train = json.dumps(TRAIN | {"epochs": 1} | ({"loss": "cox"} if loss == "cox" else {}))
    options = ["--train", train, "--folds", "2", "--ignore-split", "--no-progress", "--out", str(tmp_path / "s")]
    assert main(["auto", str(path), *TASK, *options]) == 0
    study = Run.load(tmp_path / "s")
    assert len({member.task for member in study.members}) == 1
    assert bool(study.task.cuts) == (loss == "hazard")
    survival = study.calibration.survival
    assert survival is not None
    image = str(path.parent / "40.png")
    whole = study.predict(image)
    outputs = []
    for member in study.members:
        own = member.calibration.survival
        assert own is not None
        outputs.append(_output(member, image) - own.center)
    mean = np.mean(outputs, axis=0)[None]
    assert whole["risk"][0] == pytest.approx(survival.risks(mean, study.task)[0], abs=1e-5)
    at = np.asarray(survival.horizons)
    np.testing.assert_allclose(
        whole[[f"survival_{horizon:g}" for horizon in at]].to_numpy(float),
        survival.probabilities(mean, study.task, at), atol=1e-5,
    )  # fmt: skip
    frame = study.directory.read_predictions()
    assert (frame["split"] == "val").all()
    found = study.directory.read_metrics()["metrics"]["c_index"]["value"]
    assert found == pytest.approx(c_index(frame["risk"].to_numpy(), frame[["target_time", "target_event"]].to_numpy()))
    assert "Folds" in study.directory.report.read_text(encoding="utf-8")
    text = "".join(page.read_text(encoding="utf-8") for page in (tmp_path / "s" / "documents").glob("*.md"))
    assert "predicts the time to an event, days" in text
    assert "mutually exclusive" not in text


def _output(run: Run, image: str) -> np.ndarray:
    """Return the outputs of a single run for an image."""
    from softfree.data.dataset import SampleDataset
    from softfree.inference.forward import infer

    return infer(run.model, SampleDataset([image], None, run.preprocessing), len(run.task.outputs)).values[0]


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["explain", "RUN", "IMAGE"], "softfree explain does not work on survival"),
        (["export", "RUN", "--precision", "fp16"], "which survival does not have; export fp32"),
        (["evaluate", "RUN", "--maps", "2"], "--maps works on classes or findings"),
        (["evaluate", "RUN", "--prevalence", "0.1"], "--prevalence works on classes or findings"),
        (
            ["convert", "RUN", "--images", "IMAGE"],
            "softfree convert works on classes or findings; got survival by 'days'",
        ),
        (["train", "TABLE", *TASK, "--mixup", "0.2"], "--mixup"),
        (["train", "TABLE", *TASK, "--class-weights"], "--class-weights is for classes or findings"),
        (["train", "TABLE", *TASK, "--loss", "mse"], "--loss mse is for --task regression"),
        (["train", "TABLE", *TASK, "--loss", "cox", "--batch-size", "1"], "compares the samples of a batch"),
        (["train", "TABLE", *TASK, "--loss", "cox", "--cuts", "[10]"], "a Cox model has no time intervals"),
        (["train", "TABLE", *TASK, "--cuts", "[10, 5]"], "expected increasing times above 0"),
        (["train", "TABLE", *TASK, "--horizons", "[99999]"], "expected times above 0 and up to"),
        (["train", "TABLE", "--label", "site", "--horizons", "[9]"], "--horizons is for --task survival"),
        (["train", "TABLE", "--task", "survival", "--label", "days"], "needs --event"),
        (["train", "TABLE", "--task", "survival", "--label", "site", "--event", "died"], "'A' in column 'site'"),
    ],
)
def test_what_survival_does_not_have(
    run: Run, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], why: str
) -> None:
    names = {"RUN": str(run.folder), "TABLE": str(path), "IMAGE": str(path.parent / "0.png")}
    arguments = [names.get(part, part) for part in command]
    if command[0] in ("train", "explain", "convert"):
        arguments += ["--out", str(tmp_path / "out") + (".safetensors" if command[0] == "convert" else "")]
    assert main(arguments) == 2
    assert why in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("split", "why"), [("val", "no event in split val"), ("train", "split train has no event")])
def test_a_split_without_events(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str, why: str
) -> None:
    frame = pd.read_csv(path)
    frame.loc[frame["split"] == split, "died"] = 0
    table = path.with_name(f"{split}.csv")
    frame.to_csv(table, index=False)
    assert main(["train", str(table), *TASK, *QUICK, "--out", str(tmp_path / "out")]) == 2
    assert why in capsys.readouterr().err


def test_the_audit_knows_events(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.read_csv(path)
    frame.loc[frame["split"] == "test", "died"] = 0
    frame.to_csv(path.with_name("audit.csv"), index=False)
    main(["check", str(path.with_name("audit.csv")), *TASK, "--no-progress"])
    assert "split test has no event" in capsys.readouterr().out
