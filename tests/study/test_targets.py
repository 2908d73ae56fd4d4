"""A study of several targets: an ensemble for each, and one of all that gives the same."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from softfree.cli.main import main
from softfree.data.follow_up import quantile_cuts
from softfree.evaluation.breslow import breslow
from softfree.evaluation.survival_calibration import fit_cox_slope, fit_hazards
from softfree.evaluation.survival_metrics import c_index
from softfree.inference.run import Run

TRAIN = {
    "model": "seqnorm_vit_nano_patch16", "size": 32, "epochs": 1, "lr": 0.003, "batch_size": 8, "accelerator": "cpu",
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


@pytest.mark.slow
def test_a_study_exports_to_one_file(study: Run, table: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from softfree_runtime.prediction import predict

    image = str(table.with_name("40.png"))
    assert main(["export", str(study.folder), "--out", str(tmp_path / "study.onnx")]) == 0
    light, whole = predict(tmp_path / "study.onnx", image)[0], study.predict(image)
    for column in ("grade.p_mild", "volume.value", "signs.p_two", "death.risk", "relapse.survival_100"):
        assert light[column] == pytest.approx(whole[column][0], abs=1e-4)
