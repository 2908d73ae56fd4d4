"""A study of several targets: an ensemble for each, and one of all that gives the same."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from softfree.cli.main import main
from softfree.data.folds import assign_folds
from softfree.data.follow_up import quantile_cuts
from softfree.data.subsets import nested_folds, positions
from softfree.data.table import read_table
from softfree.evaluation.breslow import breslow
from softfree.evaluation.survival_calibration import fit_cox_slope, fit_hazards
from softfree.evaluation.survival_metrics import c_index
from softfree.inference.run import Run
from softfree.study.scores import held_out, mean_score
from softfree_runtime.core.errors import UserError

TRAIN = {
    "model": "seqnorm_vit_nano_patch16", "size": 32, "epochs": 1, "lr": 0.003, "batch_size": 8, "accelerator": "cpu",
    "precision": "fp32",
    "model_options": {"depth": 1, "embed_dim": 32, "num_heads": 2, "patch_size": 8},
}  # fmt: skip
TARGETS = """
- {name: grade, kind: ordinal, column: grade, classes: [none, mild, severe]}
- {name: volume, kind: regression, column: ml}
- {name: signs, kind: findings, columns: [one, two]}
- {name: death, kind: survival, time: days, event: died}
- {name: relapse, kind: survival, time: days, event: died, loss: cox, horizons: [100]}
"""

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("targets"), np.random.default_rng(0)
    rows = []
    for number in range(42):
        Image.fromarray(rng.integers(0, 200, (40, 40), dtype=np.uint8)).save(folder / f"{number}.png")
        split = "train" if number < 36 else "test"
        grade = ["none", "mild", "severe"][number % 3]
        rows.append((f"{number}.png", grade, rng.uniform(2, 4), *rng.integers(0, 2, 2), f"p{number}", split))
    columns = ["path", "grade", "ml", "one", "two", "patient_id", "split"]
    frame = pd.DataFrame(rows, columns=columns).astype(object)
    for name in ("grade", "ml", "one"):
        frame[name] = frame[name].where(rng.random(42) > 0.15)
    frame["days"], frame["died"] = rng.exponential(300, 42).round(1), rng.integers(0, 2, 42)
    frame.loc[rng.random(42) < 0.15, ["days", "died"]] = None
    frame.to_csv(folder / "table.csv", index=False)
    (folder / "targets.yaml").write_text(TARGETS)
    return folder / "table.csv"


@pytest.fixture(scope="module")
def study(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("studies") / "study"
    words = ["auto", str(table), "--targets", str(table.with_name("targets.yaml")), "--folds", "2"]
    assert main([*words, "--train", json.dumps(TRAIN), "--no-progress", "--out", str(out)]) == 0
    return Run.load(out)


def test_each_target_is_an_ensemble_with_the_results_of_its_cross_validation(study: Run, table: Path) -> None:
    frame = pd.read_csv(table)
    assert list(study.parts) == ["grade", "volume", "signs", "death", "relapse"]
    for name, column in (("grade", "grade"), ("volume", "ml"), ("death", "days")):
        part = study.parts[name]
        assert len(part.members) == 2
        own = part.directory.read_predictions().set_index("row")
        known = frame[column].notna() & (frame["split"] == "train")
        assert own.index.tolist() == frame.index[known].tolist()
        for member in part.members:
            held = member.directory.read_predictions().query("split == 'val'")["row"]
            assert member.config["options"]["fold"] == int(own.loc[held, "fold"].unique().item())
        assert (part.directory.test / "report.html").is_file()
        assert (part.folder / "documents" / "model_card.md").is_file()
    volume = study.parts["volume"].directory
    rows = volume.read_predictions()
    assert volume.read_metrics()["metrics"]["mae"]["value"] == pytest.approx(
        (rows["value"] - rows["target"]).abs().mean()
    )
    joined = study.directory.read_predictions().set_index("row")
    np.testing.assert_allclose(joined.loc[rows["row"], "volume.value"], rows["value"])
    for page in (study.directory.report, study.directory.test / "report.html"):
        assert page.read_text(encoding="utf-8").count("/report.html") == 5


def test_the_ensemble_of_all_predicts_what_those_of_each_target_predict(study: Run, table: Path) -> None:
    images = [str(table.with_name(f"{number}.png")) for number in (3, 40)]
    whole = study.predict(images)
    for name, part in study.parts.items():
        alone = part.predict(images)
        for column in alone.columns.difference(["path", "status", "reason", "distance", "unusual"]):
            one, other = alone[column], whole[f"{name}.{column}"]
            if pd.api.types.is_float_dtype(one):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
            else:
                assert one.tolist() == other.tolist()
    values = [member.predict(images)["value"] for member in study.parts["volume"].members]
    np.testing.assert_allclose(whole["volume.value"], np.mean(values, axis=0), rtol=1e-4)
    np.testing.assert_allclose(whole["volume.disagreement"], np.std(values, axis=0), atol=1e-4)


def test_members_of_survival_share_their_times_and_are_calibrated_together(study: Run, table: Path) -> None:
    frame = pd.read_csv(table)
    known = frame["days"].notna() & (frame["split"] == "train")
    targets = frame.loc[known, ["days", "died"]].to_numpy(float)
    for name, part in study.parts.items():
        if name not in ("death", "relapse"):
            continue
        assert part.task.cuts == (quantile_cuts(targets) if name == "death" else ())
        assert {member.task for member in part.members} == {part.task}
        rows = part.directory.read_predictions()
        logits, truth = (rows[[c for c in rows if c.startswith(kind)]].to_numpy() for kind in ("logit_", "target_"))
        survival = part.calibration.survival
        assert survival is not None
        if name == "death":
            assert (survival.slope, survival.level) == fit_hazards(logits, truth, part.task.cuts)
        else:
            assert survival == breslow(logits[:, 0], truth, (100.0,), fit_cox_slope(logits[:, 0], truth))
        found = study.directory.read_metrics()["metrics"][f"{name}.c_index"]["value"]
        assert found == pytest.approx(c_index(survival.risks(logits, part.task), truth))
        assert {tuple(member.config["target"]["horizons"]) for member in part.members} == {survival.horizons}


def test_a_training_of_several_targets_is_judged_by_the_mean_score_of_its_epochs(study: Run) -> None:
    for member in study.parts["grade"].members:
        whole = member.whole
        assert whole is not None
        history = whole.directory.read_history()
        assert history is not None
        assert mean_score(whole) == pytest.approx(history["val_score"].dropna().iloc[-1], abs=1e-6)
        found = held_out(whole.directory, "score")
        assert found.value == mean_score(whole)
        assert np.isnan(found.low)


def test_a_part_without_an_event_or_a_known_value_is_refused(table: Path) -> None:
    rows = read_table(table, targets=table.with_name("targets.yaml"), strict_patients=False)
    folds = assign_folds(rows, 2)
    assert nested_folds(rows, folds, 1.0, 0).numbers.shape[0] == 2
    targets = rows.targets.copy()
    slices = rows.task.target_slices()  # type: ignore[attr-defined]
    kept = positions(rows.take(np.flatnonzero(folds.numbers[0] == 1)), 0).argmax()
    lonely = np.flatnonzero(folds.numbers[0] == 1)[kept]
    inside = np.flatnonzero((folds.numbers[0] == 1) & (np.arange(len(targets)) != lonely))
    for name, cells, words in (
        ("death", (slices["death"].start + 1, 0.0, 1.0), "none with the event of target 'death'"),
        ("volume", (slices["volume"].start, np.nan, 3.0), "none with a known value of target 'volume'"),
    ):
        changed, (column, others, own) = targets.copy(), cells
        changed[inside, column], changed[lonely, column] = others, own
        changed[lonely, slices["death"].start] = 5.0
        with pytest.raises(UserError, match=words):
            nested_folds(replace(rows, targets=changed), folds, 0.5, 0)
        assert name in words


@pytest.mark.slow
def test_a_search_and_a_learning_curve_of_several_targets(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    words = [str(table), "--targets", str(table.with_name("targets.yaml")), "--train", json.dumps(TRAIN)]
    words += ["--no-progress", "--json"]
    search = ["--trials", "1", "--space", "{pool: [avg]}", "--folds", "1", "--out", str(tmp_path / "tuned")]
    rows = pd.read_csv(table).assign(split=lambda frame: np.where(frame.index % 4 == 1, "val", frame["split"]))
    rows.to_csv(table.with_name("split.csv"), index=False)
    capsys.readouterr()
    assert main(["tune", str(table.with_name("split.csv")), *words[1:], *search]) == 0
    printed = capsys.readouterr().out
    found = json.loads(printed[printed.index("{") :])
    (folder,) = (tmp_path / "tuned" / "trials").iterdir()
    assert found["score"] == pytest.approx(mean_score(Run.load(folder / "fold1")))
    assert "mean score of the targets" in (tmp_path / "tuned" / "report.html").read_text(encoding="utf-8")
    assert (
        main(["learning-curve", *words, "--folds", "2", "--fractions", "[0.6, 1]", "--out", str(tmp_path / "c")]) == 0
    )
    curve = pd.read_csv(tmp_path / "c" / "curve.csv")
    assert len(curve) == 4
    for row in curve.to_dict("records"):
        member = next((tmp_path / "c" / f"part_{row['fraction']:g}" / "members").glob(f"fold{row['fold']}*"))
        assert row["score"] == pytest.approx(mean_score(Run.load(member)))


@pytest.mark.slow
def test_a_study_exports_to_one_file(study: Run, table: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from softfree_runtime.prediction import predict

    image = str(table.with_name("40.png"))
    assert main(["export", str(study.folder), "--out", str(tmp_path / "study.onnx")]) == 0
    light, whole = predict(tmp_path / "study.onnx", image)[0], study.predict(image)
    for column in ("grade.p_mild", "volume.value", "signs.p_two", "death.risk", "relapse.survival_100"):
        assert light[column] == pytest.approx(whole[column][0], abs=1e-4)


def test_the_documents_of_each_target_have_its_part_of_an_external_evaluation(study: Run, tmp_path: Path) -> None:
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "documents"
    for name, part in study.parts.items():
        folder = elsewhere / "targets" / name
        folder.mkdir(parents=True)
        shutil.copyfile(part.directory.metrics, folder / "metrics.json")
    words = ["report", str(study.folder), "--evaluations", str(elsewhere), "--no-docx", "--out", str(out)]
    assert main(words) == 0
    for name in study.parts:
        assert "External data elsewhere" in (out / name / "methods.md").read_text(encoding="utf-8")
    shutil.rmtree(out)
    shutil.rmtree(elsewhere / "targets" / "relapse")
    assert main(words) == 2
    assert not out.exists(), "nothing is written if the evaluation of the last target is missing"
