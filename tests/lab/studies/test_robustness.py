import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score

from softfree.core.options import TrainOptions
from softfree.inference.run import Run
from softfree.inference.run_directory import Calibration, RunDirectory
from softfree.models.registry import build_model
from softfree.reporting.scoring import open_table
from softfree.training.loop import train
from softfree_lab.cli import main
from softfree_lab.studies.corruptions import STRENGTHS
from softfree_lab.studies.options import RobustnessOptions
from softfree_lab.studies.paired_bootstrap import BootstrapEstimate
from softfree_lab.studies.robustness import study_robustness, summarize
from softfree_lab.studies.robustness_eval import ORIGINAL, CorruptedImages, RobustnessResult, Variant
from softfree_lab.studies.robustness_report import to_markdown
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.readers import read_image

pytestmark = pytest.mark.usefixtures("without_figures")

SMALL = {"depth": 2, "embed_dim": 32, "num_heads": 2, "patch_size": 8}
NOISE = [Variant("noise", s) for s in STRENGTHS]


@pytest.fixture(scope="module")
def made(tmp_path_factory, make_small_table) -> Path:
    """A run beside its data: 16 images of 8 patients are for testing. The labels cannot be learned: AUROC can move."""
    folder = tmp_path_factory.mktemp("robustness")
    table = make_small_table(folder / "data", count=64)
    rows = pd.read_csv(table)
    rows.assign(label=[("low", "high")[number // 4 % 2] for number in range(64)]).to_csv(table, index=False)
    options = TrainOptions(
        table=table, out=folder / "run", size=32, model_options=SMALL, epochs=1, batch_size=4, lr=1e-4, progress=False,
        accelerator="cpu", augment=False,
    )  # fmt: skip
    train(options)
    return folder


@pytest.fixture
def with_figures(made, tmp_path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(made, tmp_path / "copy")
    config = RunDirectory(tmp_path / "copy" / "run").read_config()
    config["options"]["table"] = str(tmp_path / "copy" / "data" / "table.csv")
    RunDirectory(tmp_path / "copy" / "run").write_config(config)
    return tmp_path / "copy"


@pytest.fixture
def folder(with_figures, monkeypatch) -> Path:
    """The same, for studies whose figure nobody looks at."""
    monkeypatch.setattr("softfree_lab.studies.robustness.plot_robustness", lambda *_: None)
    return with_figures


def another(run: Path, name: str, attention: str = "seqnorm", **options: object) -> Path:
    """A run with fresh weights on the same data."""
    out = run.with_name(name)
    shutil.copytree(run, out)
    config = RunDirectory(out).read_config()
    config["model"]["name"] = config["model"]["name"].replace("seqnorm", attention)
    config["options"] |= options
    RunDirectory(out).write_config(config)
    save_file(build_model(config).state_dict(), out / "model.safetensors")
    (out / "digests.json").unlink(missing_ok=True)  # of the weights that were there
    return out


def quick(out: Path, **options: object) -> RobustnessOptions:
    return RobustnessOptions(
        **({"out": out, "num_bootstrap": 200, "progress": False, "corruptions": ["noise"]} | options)
    )


def test_every_run_has_a_row_for_every_strength(with_figures):
    folder = with_figures
    other = another(folder / "run", "softmax", "softmax", seed=1)
    result = study_robustness(quick(folder / "out", corruptions=["noise", "crop"]), [folder / "run", other])
    assert len(result.rows) == 2 * (1 + 2 * 5)
    for path in (folder / "run", other):
        rows = result.rows[result.rows["run"] == str(path)].set_index(["corruption", "strength"])
        plain = rows.loc[("none", 0), "auroc"]
        np.testing.assert_allclose(rows["drop"], plain - rows["auroc"])
        assert (rows["n"] == 16).all()
    measured = json.loads((folder / "run" / "metrics.json").read_text())["metrics"]["auroc"]["value"]
    assert result.rows.loc[0, "auroc"] == measured, "the images as they are give what softfree evaluate says"
    assert result.rows["auroc"].nunique() > 3, "the corruptions reach the models"
    assert list(result.summary["attention"].unique()) == ["seqnorm", "softmax"]
    names = {"robustness.csv", "robustness_attentions.csv", "robustness.md", "robustness.png", "machine.json"}
    assert {path.name for path in (folder / "out").iterdir()} == names


def test_the_same_seed_gives_the_same_rows_whatever_runs_beside(folder):
    other = another(folder / "run", "softmax", "softmax")
    alone = study_robustness(quick(folder / "a"), [folder / "run"])
    beside = study_robustness(quick(folder / "b", batch_size=3, num_workers=2), [other, folder / "run"])
    theirs = beside.rows[beside.rows["run"] == str(folder / "run")].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone.rows, theirs, check_dtype=False, rtol=1e-9)
    changed = study_robustness(quick(folder / "c", seed=1), [folder / "run"])
    assert not np.allclose(changed.rows["auroc"][1:], alone.rows["auroc"][1:])


def test_a_image_is_corrupted_before_it_is_prepared(folder):
    run = Run.load(folder / "run")
    table = open_table(run).where("test")
    images = CorruptedImages(table, run.preprocessing, [ORIGINAL, *NOISE], seed=0)
    assert len(images) == 16 * 6
    np.testing.assert_array_equal(images[6]["image"], run.preprocessing(read_image(table.frame["file"][1])))
    harm = [float((images[6 + s]["image"] - images[6]["image"]).abs().mean()) for s in STRENGTHS]
    assert np.all(np.diff(harm) > 0)
    np.testing.assert_array_equal(images[8]["image"], images[8]["image"])


def test_noise_belongs_to_the_row_of_the_table(folder):
    run = Run.load(folder / "run")
    table = open_table(run).where("test")
    table.frame["file"] = table.frame["file"][0]  # one image, so that only the noise differs
    first, second = (CorruptedImages(table, run.preprocessing, NOISE, seed=0)[5 * n]["image"] for n in (0, 1))
    assert not np.allclose(first, second)


def test_unreadable_images_are_left_out_and_counted(folder):
    run = Run.load(folder / "run")
    table = open_table(run).where("test")
    Path(table.frame["file"][3]).write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    result = study_robustness(quick(folder / "out"), [folder / "run"])
    assert (result.rows[["n", "unreadable"]] == (15, 1)).all(axis=None)
    stored = pd.read_csv(folder / "run" / "predictions.csv").query("split == 'test'")
    kept = stored[stored["row"] != table.frame["row"][3]]
    assert result.rows.loc[0, "auroc"] == pytest.approx(roc_auc_score(kept["target"], kept["p_low"]))
    assert "15 test images (1 more could not be read)" in (folder / "out/robustness.md").read_text()
    images = CorruptedImages(table, run.preprocessing, NOISE, seed=0)
    for item in (15, 16):
        with pytest.raises(ReadError):
            images[item]


def test_without_a_readable_image_there_is_nothing_to_study(folder):
    shutil.move(folder / "data", folder / "away")
    (folder / "data").mkdir()
    shutil.copy(folder / "away" / "table.csv", folder / "data")
    with pytest.raises(UserError, match="none of the 16 test images"):
        study_robustness(quick(folder / "out"), [folder / "run"])


def test_another_table_is_compared_unpaired(folder):
    rows = pd.read_csv(folder / "data" / "table.csv").drop(columns="split").iloc[:24]
    (folder / "elsewhere").mkdir()
    rows.to_csv(folder / "elsewhere" / "other.csv", index=False)
    options = quick(folder / "out", table=folder / "elsewhere" / "other.csv", image_root=folder / "data")
    result = study_robustness(options, [folder / "run"])
    last = result.rows.iloc[-1]
    assert (last["corruption"], last["n"]) == ("other table", 24)
    assert last["drop"] == pytest.approx(result.rows.loc[0, "auroc"] - last["auroc"])
    text = (folder / "out" / "robustness.md").read_text()
    assert "24 of the other table" in text
    assert "| other table |" in text


def test_another_table_with_other_classes_is_refused(folder):
    other = folder / "data" / "other.csv"
    rows = pd.read_csv(folder / "data" / "table.csv").drop(columns="split")
    rows[rows["label"] == "low"].to_csv(other, index=False)
    with pytest.raises(UserError, match="with and without low"):
        study_robustness(quick(folder / "out", table=other), [folder / "run"])
    rows.assign(label="strange").to_csv(other, index=False)
    with pytest.raises(UserError, match="not a class of the model"):
        study_robustness(quick(folder / "out", table=other), [folder / "run"])


def test_runs_of_another_task_are_refused(folder):
    other = another(folder / "run", "other")
    config = RunDirectory(other).read_config()
    config["task"]["classes"] = ["low", "higher"]
    RunDirectory(other).write_config(config)
    RunDirectory(other).write_calibration(Calibration())
    with pytest.raises(UserError, match="runs of one task"):
        study_robustness(quick(folder / "out"), [folder / "run", other])


def test_mistakes_are_one_line(folder, capsys):
    run = str(folder / "run")
    for arguments, message in (
        ([run, "--corruptions", "[blurr]"], "did you mean blur"),
        ([run, run], "named twice"),
        ([run, "--num-bootstrap", "0"], "expected 1 or more"),
    ):
        assert main(["study", "robustness", *arguments, "--out", str(folder / "out")]) == 2
        assert message in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_the_verb_prints_the_table_or_json(folder, capsys):
    arguments = ["study", "robustness", str(folder / "run"), "--corruptions", "[jpeg]", "--num-bootstrap", "50",
                 "--progress=false", "--out", str(folder / "out")]  # fmt: skip
    assert main(arguments) == 0
    assert capsys.readouterr().out == (folder / "out" / "robustness.md").read_text()
    assert main([*arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["corruption"], row["strength"]) for row in rows] == [("none", 0), *(("jpeg", s) for s in STRENGTHS)]


def make_result(values: list[float], images: str = "a") -> RobustnessResult:
    """A run whose AUROC is as given, as it is and at noise 1 to 5; patients move all alike, and the drop by 0.01."""
    common = np.random.default_rng(0).normal(0, 0.03, 400)
    own = np.random.default_rng(1).normal(0, 0.01, 400)
    variants = [ORIGINAL, *NOISE]
    areas = {
        v: BootstrapEstimate(x, x + common + (own if v.strength else 0), 0.1)
        for v, x in zip(variants, values, strict=True)
    }
    return RobustnessResult(areas, (images, b""), 8, {})


def test_runs_of_one_name_are_averaged_and_their_drop_is_paired():
    runs = [make_result([0.9, 0.9, 0.8, 0.8, 0.7, 0.6]), make_result([0.8, 0.8, 0.8, 0.6, 0.6, 0.5])]
    result = summarize(["sima", "sima"], runs).set_index(["corruption", "strength"])
    assert result.loc[("none", 0), "auroc"] == pytest.approx(0.85)
    whole = result.loc[("noise", -1)]
    assert whole["drop"] == pytest.approx(0.85 - 0.71)
    assert whole["drop_high"] - whole["drop_low"] == pytest.approx(2 * 1.96 * 0.01, rel=0.2)
    assert whole["high"] - whole["low"] > 2 * 1.96 * 0.025
    assert result.loc[("noise", 5), "drop"] == pytest.approx(0.3)
    assert result["runs"].eq(2).all()


def test_runs_on_different_images_have_a_mean_and_a_reason_but_no_interval():
    values = [0.9, 0.9, 0.8, 0.8, 0.7, 0.6]
    result = summarize(
        ["sima", "sima", "softmax"], [make_result(values), make_result(values, "b"), make_result(values)]
    )
    sima, softmax = (result[result["attention"] == name] for name in ("sima", "softmax"))
    assert sima[["low", "high"]].isna().all(axis=None)
    assert sima["auroc"].notna().all()
    assert set(sima["reason"]) == {"the runs were tested on different images"}
    assert softmax[["low", "high", "drop_low", "drop_high"]].notna().all(axis=None)
    rows = pd.DataFrame([{"run": "r", "corruption": "none", "n": 8, "unreadable": 0}])
    text = to_markdown(rows, result)
    assert "| sima (2) | 0.900 | 0.140 |" in text
    assert "different images." in text
