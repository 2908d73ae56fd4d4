"""From logits of a run to calibrated scores and their file."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from tests.corpus.series_cases import write_series

from softfree.cli.main import main
from softfree.evaluation.conformal import fit_sets
from softfree.inference.options import InferenceOptions
from softfree.inference.run import Run
from softfree.inference.run_directory import Calibration
from softfree.reporting.baselines import BaselinePredictions, read_baselines
from softfree.reporting.coverage import coverage_of
from softfree.reporting.scoring import (
    calibrate,
    open_table,
    own_table,
    predict_rows,
    scores_of,
    stored_rows,
    write_predictions,
)
from softfree_lab.cli import main as lab
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import Task


def multilabel(folder: Path) -> Run:
    return Run(folder, {"task": {"kind": "multilabel", "classes": ["x", "y"]}}, Calibration(2.0, {"x": 0.5, "y": 0.5}))


def test_predicted_rows_are_those_stored_by_training(run: Run) -> None:
    part = open_table(run).where("test")
    baselines = read_baselines(run.directory.baselines)
    assert baselines is not None
    beside = BaselinePredictions(baselines, run.task, run.preprocessing, len(part.frame))
    stored = stored_rows(run, part)
    fresh = predict_rows(run, part, InferenceOptions(batch_size=3, progress=False), beside)
    assert "baseline_copy_high" in fresh, "what the regression says"
    assert stored is not None
    pd.testing.assert_frame_equal(stored, fresh, check_dtype=False, rtol=1e-4, atol=1e-6)
    assert fresh["row"].tolist() == list(range(24, 32))
    assert fresh["target"].tolist() == [1, 1, 0, 0] * 2  # classes in alphabetical order: high, low
    assert not {"path", "file", "patient_id"} & set(fresh)
    assert stored_rows(run, open_table(run).where("train")) is None
    assert stored_rows(replace(run, folder=run.folder / "nothing"), part) is None


def test_unreadable_images_keep_their_row_and_have_no_score(run: Run, tmp_path: Path) -> None:
    Image.fromarray(np.arange(2000, dtype=np.uint8).reshape(50, 40)).save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (tmp_path / "t.csv").write_text("path,label\nbroken.png,low\ngood.png,high\nscan: Doe.png,low\n")
    frame = predict_rows(run, open_table(run, tmp_path / "t.csv"), InferenceOptions(batch_size=2, progress=False))
    assert frame["status"].tolist() == ["corrupt", "ok", "missing"]
    assert frame["logit_low"].isna().tolist() == [True, False, True]
    assert list(frame["reason"] != "") == [status != "ok" for status in frame["status"]]
    assert frame.loc[2, "reason"].startswith("no such file")  # without its name
    scores = scores_of(frame, run)
    assert scores.targets.tolist() == [0]
    assert np.isfinite(scores.probabilities).all()


FAULTS = {
    "damaged": ("corrupt", lambda folder: (folder / "slice1.dcm").write_bytes(b"nothing")),
    "cut short": (
        "corrupt",
        lambda folder: (folder / "slice1.dcm").write_bytes((folder / "slice1.dcm").read_bytes()[:-9]),
    ),
    "twice": ("unsupported", lambda folder: shutil.copy(folder / "slice1.dcm", folder / "again: Doe.dcm")),
    "missing": ("corrupt", lambda folder: (folder / "slice2.dcm").unlink()),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_reason_of_a_folder_does_not_name_its_files(fault: str, volume_run: Run, tmp_path: Path) -> None:
    folder = write_series(tmp_path).rename(tmp_path / "study: Doe, Jane")
    status, spoil = FAULTS[fault]
    spoil(folder)
    for file in folder.iterdir():
        file.rename(folder / f"Doe: Jane: {file.name}")
    (tmp_path / "t.csv").write_text('path,label\n"study: Doe, Jane",ill\n')
    table = open_table(volume_run, tmp_path / "t.csv", label="label")
    frame = predict_rows(volume_run, table, InferenceOptions(progress=False))
    assert frame.loc[0, "status"] == status
    assert frame.loc[0, "reason"]
    assert not {"Doe", "Jane", "study"} & set(re.findall(r"\w+", frame.to_csv()))
    named = volume_run.predict(folder)  # here the file at fault is named
    assert frame.loc[0, "reason"] in named.loc[0, "reason"]
    assert "Doe: Jane" in named.loc[0, "reason"]


def test_frames_of_a_file_are_told_apart(run: Run, tmp_path: Path) -> None:
    pages = [Image.fromarray(np.random.default_rng(n).integers(0, 255, (32, 32), dtype=np.uint8)) for n in range(2)]
    pages[0].save(tmp_path / "two.tif", save_all=True, append_images=pages[1:])
    pages[1].save(tmp_path / "second.png")
    (tmp_path / "t.csv").write_text("path,frame,label\ntwo.tif,,low\ntwo.tif,1,low\nsecond.png,,high\n")
    logits = predict_rows(run, open_table(run, tmp_path / "t.csv"), InferenceOptions(batch_size=1, progress=False))[
        "logit_low"
    ]
    assert logits[1] == pytest.approx(logits[2], abs=1e-6)
    assert abs(logits[0] - logits[1]) > 1e-5


def test_another_table_is_all_test_and_must_have_the_classes(run: Run, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\n" + "".join(f"{n}.png,low\n" for n in range(10)))
    table = open_table(run, tmp_path / "t.csv")
    assert set(table.frame["split"]) == {"test"}
    assert table.targets.tolist() == [1] * 10
    (tmp_path / "t.csv").write_text("path,label\na.png,middle\n")
    with pytest.raises(UserError, match="middle"):
        open_table(run, tmp_path / "t.csv")


def test_a_changed_table_is_refused(run: Run) -> None:
    changed = replace(run, config=run.config | {"table": {"sha256": "0" * 64}})
    with pytest.raises(UserError, match="has changed since the run was trained"):
        open_table(changed)


VERBS = {
    "study sizes": "softfree-lab study sizes RUN --table TABLE",
    "study explain": "softfree-lab study explain RUN --table TABLE",
    "study robustness": "softfree-lab study robustness RUN --own-table TABLE",
    "evaluate": "softfree evaluate RUN TABLE --out FOLDER",
}


@pytest.fixture
def moved(run: Run, tmp_path: Path) -> tuple[Path, Path]:
    """A run and the table it was trained on, which was moved with its images."""
    table = Path(run.config["options"]["table"])
    shutil.copytree(table.parent, tmp_path / "elsewhere")
    shutil.copytree(run.folder, tmp_path / "run")
    stated = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    stated["options"]["table"] = str(tmp_path / "gone" / "table.csv")
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(stated))
    return tmp_path / "run", tmp_path / "elsewhere" / table.name


@pytest.mark.parametrize("verb", VERBS)
def test_who_needs_a_table_that_was_moved_is_told_how_to_name_it(
    verb: str, moved: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(moved[0].parent)
    assert (main if verb == "evaluate" else lab)([*verb.split(), "run"]) == 2
    stderr = capsys.readouterr().err
    assert "no longer exists" in stderr
    assert VERBS[verb] in stderr.replace(" run ", " RUN ")


def test_a_table_that_was_moved_keeps_the_split_of_the_run(run: Run, moved: tuple[Path, Path]) -> None:
    there, before = own_table(Run.load(moved[0]), moved[1], how="").frame, open_table(run).frame
    assert there["split"].tolist() == before["split"].tolist()
    assert {Path(file).parent for file in there["file"]} == {moved[1].parent}
    moved[1].write_text(moved[1].read_text().replace("high", "low", 1))
    with pytest.raises(UserError, match="is not the table that the run was trained on"):
        own_table(Run.load(moved[0]), moved[1], how="")


def test_a_study_goes_on_with_a_table_that_was_moved(
    moved: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab(["study", "sizes", str(moved[0]), "--table", str(moved[1]), "--json", "true"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 8


def test_scores_are_softened_by_the_temperature(tmp_path: Path) -> None:
    run = multilabel(tmp_path)
    frame = pd.DataFrame(
        {
            "status": ["ok", "corrupt", "ok"],
            "patient": [4, 4, 7],
            "target_x": [1.0, 0.0, np.nan],
            "target_y": [0.0, 0.0, 1.0],
            "logit_x": [2 * np.log(3), np.nan, 0.0],
            "logit_y": [-2 * np.log(3), np.nan, 2 * np.log(9)],
        }
    )
    scores = scores_of(frame, run)
    np.testing.assert_allclose(scores.probabilities, [[0.75, 0.25], [0.5, 0.9]])
    np.testing.assert_array_equal(scores.targets, [[1, 0], [np.nan, 1]])
    assert scores.patients.tolist() == [4, 7]
    assert scores.task == Task("multilabel", ("x", "y"))


def test_calibration_undoes_overconfidence_and_is_stored(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, 4000)
    target = (rng.random(4000) < 1 / (1 + np.exp(-honest))).astype(int)
    frame = pd.DataFrame({"status": "ok", "patient": range(4000), "target": target})
    frame["logit_high"], frame["logit_low"] = -2.0 * honest, 2.0 * honest  # four times too sure
    frame.loc[0, "status"] = "corrupt"
    frame.loc[0, "logit_high"] = frame.loc[0, "logit_low"] = np.nan
    calibrated = calibrate(replace(run, folder=tmp_path, calibration=Calibration(9.0, {"low": 0.9})), frame)
    assert calibrated.calibration.temperature == pytest.approx(4, rel=0.1)
    assert calibrated.calibration.thresholds["low"] == pytest.approx(0.5, abs=0.1)
    assert (tmp_path / "calibration.json").is_file()


def test_the_file_holds_probabilities_and_labels(run: Run, tmp_path: Path) -> None:
    frame = predict_rows(run, open_table(run).where("val"), InferenceOptions(batch_size=8, progress=False))
    calibrated = replace(run, calibration=Calibration(3.0, {"low": 0.4}))
    write_predictions(tmp_path / "new" / "p.csv", frame, calibrated)
    written = pd.read_csv(tmp_path / "new" / "p.csv")
    np.testing.assert_allclose(written["p_low"], scores_of(frame, calibrated).probabilities[:, 1])
    margin = written["logit_low"] - written["logit_high"]
    np.testing.assert_allclose(written["raw_low"], 1 / (1 + np.exp(-margin)))
    np.testing.assert_allclose(written["p_low"], 1 / (1 + np.exp(-margin / 3)))
    assert ((written["predicted"] == "low") == (written["p_low"] >= 0.4)).all()


def test_no_label_has_a_part_in_the_answer_to_its_own_fold(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fold = np.repeat(["1", "2", "NA"], 40)
    frame = pd.DataFrame({"row": range(120), "split": "val", "patient": range(120), "status": "ok", "fold": fold})
    frame["target"] = rng.integers(0, 2, 120)
    frame["logit_ill"] = rng.normal(frame["target"], 1) + 0.5 * (fold == "2")
    frame["logit_well"] = 0.0
    frame["threshold_ill"] = np.repeat([0.3, 0.5, 0.7], 40)
    frame.loc[7, ["status", "logit_ill", "logit_well"]] = ["corrupt", np.nan, np.nan]
    run = Run(tmp_path, {"task": {"kind": "binary", "classes": ["well", "ill"]}}, Calibration(1.0, {"ill": 0.9}))
    readable = frame["status"] == "ok"
    scores = scores_of(frame, run)
    run = replace(run, calibration=replace(run.calibration, sets=fit_sets(scores, 0.8)))
    write_predictions(run.directory.predictions, frame, run)
    written = run.directory.read_predictions()
    assert written["row"].tolist() == list(range(120))
    assert set(written["fold"]) == {"1", "2", "NA"}
    assert pd.isna(written.loc[7, ["predicted", "set", "abstain"]]).all()
    known = written[readable]
    assert ((known["predicted"] == "ill") == (known["p_ill"] >= known["threshold_ill"])).all()
    for name in np.unique(fold):
        held = (fold == name)[readable]
        sets = fit_sets(scores.subset(~held), 0.8)
        inside = sets.plausible(scores.probabilities[held], run.task)
        assert known["set"][held].map(lambda text: len(json.loads(text))).tolist() == inside.sum(axis=1).tolist()
        assert (known["abstain"][held].astype(bool) == (inside.sum(axis=1) != 1)).all()
    coverage = coverage_of(run, written, scores)
    assert coverage is not None
    assert coverage.abstained == known["abstain"].astype(bool).mean()
