"""What an evaluation measures and writes."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from softfree.core.options import TrainOptions
from softfree.inference.run import Run
from softfree.reporting.evaluate import Evaluation, evaluate
from softfree.reporting.options import EvaluateOptions
from softfree.training.loop import train
from softfree_runtime.core.conformal import ConformalSets
from softfree_runtime.core.errors import UserError

pytestmark = pytest.mark.usefixtures("without_figures")


def evaluated(run: Run, out: Path, **changes: Any) -> Evaluation:
    out.mkdir(exist_ok=True)
    return evaluate(run, EvaluateOptions(out=out, num_bootstrap=50, progress=False, **changes))


def other_table(run: Run, name: str, content: str) -> Path:
    path = run.folder.parent / "data" / name
    path.write_text(content)
    return path


def test_numbers_are_those_of_the_predictions_written_beside(run: Run, tmp_path: Path) -> None:
    evaluation = evaluated(run, tmp_path / "out", split="val")
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert rows["row"].tolist() == list(range(16, 24))
    assert evaluation.metrics["auroc"].value == roc_auc_score(rows["target"], rows["p_low"])
    right = (rows["predicted"] == "low") == (rows["target"] == 1)
    assert evaluation.metrics["accuracy"].value == right.mean()
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (written["split"], written["n"], written["patients"], written["unreadable"]) == ("val", 8, 4, 0)
    assert written["metrics"]["auroc"]["value"] == evaluation.metrics["auroc"].value
    assert evaluation.report == tmp_path / "out" / "report.html"


def test_the_page_says_what_was_measured_and_what_it_cost(run: Run, tmp_path: Path) -> None:
    page = evaluated(run, tmp_path / "out", subgroups=["site"]).report.read_text()
    assert "seqnorm_vit_nano_patch16 on table.csv, test split" in page
    for words in ("Multiply-adds per sample", "The split is the table", "with temperature", "left-right flips"):
        assert words in page
    assert "data:image/png" not in page, "no image unless it is asked for"


def test_conformal_sets_are_measured_and_shown(run: Run, tmp_path: Path) -> None:
    sets = ConformalSets(0.9, {"high": 0.5, "low": 0.4})
    changed = replace(run, calibration=replace(run.calibration, sets=sets))
    evaluation = evaluated(changed, tmp_path / "out", subgroups=["site"])
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv")
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())["conformal"]
    names = [json.loads(text) for text in rows["set"]]
    inside = np.array([("high", "low")[target] in row for target, row in zip(rows["target"], names, strict=True)])
    assert written["all"]["covered"] == inside.mean() == evaluation.coverage.all.covered  # type: ignore[union-attr]
    low = next(row for row in written["classes"] if row["name"] == "low")
    assert (low["n"], low["patients"], low["covered"]) == (4, 2, inside[rows["target"] == 1].mean())
    assert written["abstained"] == rows["abstain"].mean()
    assert written["groups"]["site"]["A"]["all"]["n"] == 4
    page = evaluation.report.read_text()
    assert "Conformal sets" in page
    assert "Truth in the set" in page
    old = replace(run, calibration=replace(run.calibration, sets=None))
    assert evaluated(old, tmp_path / "old", subgroups=["site"]).coverage is None
    assert "Conformal sets" not in (tmp_path / "old" / "report.html").read_text()


def test_maps_are_shown_where_they_are_asked_for(run: Run, tmp_path: Path) -> None:
    page = evaluated(run, tmp_path / "out", maps=3).report.read_text()
    assert page.count("data:image/png") == 9, "two beside each sample"
    assert "Saliency maps" in page
    assert "Saliency maps" not in evaluated(run, tmp_path / "plain").report.read_text()


def test_another_precision_is_predicted_anew(run: Run, tmp_path: Path) -> None:
    logits = {}
    for precision in ("fp32", "bf16"):
        evaluated(run, tmp_path / precision, precision=precision)
        logits[precision] = pd.read_csv(tmp_path / precision / "predictions.csv")["logit_low"]
    assert 0 < (logits["fp32"] - logits["bf16"]).abs().max() < 0.1


def test_rows_that_training_did_not_store_are_predicted(run: Run, tmp_path: Path) -> None:
    evaluation = evaluated(run, tmp_path / "out", split="train")
    assert evaluation.scores.targets.tolist() == [1, 1, 0, 0] * 4
    assert pd.read_csv(tmp_path / "out" / "predictions.csv")["row"].tolist() == list(range(16))
    assert set(pd.read_csv(run.folder / "predictions.csv")["split"]) == {"val", "test"}


def test_a_report_of_another_table_is_titled_with_its_name(run: Run, tmp_path: Path) -> None:
    table = other_table(run, "elsewhere.csv", "path,label\n02.png,high\n00.png,low\n")
    page = evaluated(run, tmp_path / "out", table=table, include_training=True).report.read_text()
    assert "seqnorm_vit_nano_patch16 on elsewhere.csv, test split" in page


def test_unreadable_images_are_counted_and_explained(run: Run, tmp_path: Path) -> None:
    table = other_table(run, "some.csv", "path,label\n00.png,low\ngone.png,low\n02.png,high\n03.png,high\n")
    evaluation = evaluated(run, tmp_path / "out", table=table, include_training=True)
    assert "that the run was trained on are included" in evaluation.report.read_text()
    assert len(evaluation.scores) == 3
    assert list(evaluation.failed) == [1]
    assert "no such file" in evaluation.failed[1]
    assert "gone" not in evaluation.failed[1], "names may be those of patients"
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["unreadable"] == 1
    assert "1 of 4 samples of this split were unreadable and left out: missing." in evaluation.report.read_text()


def test_a_comparison_takes_the_same_images(run: Run, tmp_path: Path, quick: dict[str, Any]) -> None:
    rival = train(TrainOptions(table=Path(run.config["options"]["table"]), out=tmp_path / "rival", **quick, seed=1)).run
    evaluation = evaluated(run, tmp_path / "out", compare_with=rival.folder, margin=0.1)
    rival_auroc = evaluated(rival, tmp_path / "theirs").metrics["auroc"].value
    assert evaluation.comparison is not None
    difference = evaluation.comparison.differences["auroc"]
    assert (difference.a, difference.b) == (evaluation.metrics["auroc"].value, rival_auroc)
    assert evaluation.comparison.verdict in evaluation.report.read_text()
    assert evaluation.comparison.margin == 0.1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"out": None, "table": Path("other.csv")}, "needs --out"),
        ({"subgroups": ["planet"]}, "--subgroups planet: no such column; the table has path, label"),
        ({"compare_with": Path("nowhere")}, "nowhere is not a run directory"),
    ],
)
def test_mistakes(run: Run, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    options: dict[str, Any] = {"out": tmp_path, "num_bootstrap": 50, "progress": False}
    with pytest.raises(UserError, match=words):
        evaluate(run, EvaluateOptions(**(options | changes)))


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({"label": "two words"}, "--label 'two words'"),
        ({"labels": ["a", "b"]}, "--labels '[a, b]'"),
        ({"event": "died"}, "--event died"),
        ({"image_root": Path("moved")}, "--image-root moved"),
    ],
)
def test_what_describes_a_table_needs_one(run: Run, tmp_path: Path, changes: dict[str, Any], given: str) -> None:
    with pytest.raises(UserError, match=f"{re.escape(given)} describes a table") as caught:
        evaluate(run, EvaluateOptions(out=tmp_path, progress=False, **changes))
    assert str(caught.value).endswith(f": softfree evaluate RUN TABLE {given} --out FOLDER")
    assert not list(tmp_path.iterdir())


def test_a_rival_that_was_trained_on_the_test_is_refused(run: Run, tmp_path: Path) -> None:
    rival = Path(shutil.copytree(run.folder, tmp_path / "rival"))
    rows = pd.read_csv(rival / "split.csv")
    rows.loc[rows["row"] >= 30, "split"] = "train"
    rows.to_csv(rival / "split.csv", index=False)
    with pytest.raises(UserError, match="that run was trained on 2 of the 8 rows; give the table a split column"):
        evaluated(run, tmp_path / "out", compare_with=rival)


def test_a_split_without_rows_or_readable_images(run: Run, tmp_path: Path) -> None:
    table = other_table(run, "val.csv", "path,label,split\n00.png,low,val\n02.png,high,val\n")
    with pytest.raises(UserError, match="no row in split test; it has 2 in val"):
        evaluated(run, tmp_path / "out", table=table, include_training=True, split="test")
    table = other_table(run, "gone.csv", "path,label\ngone.png,low\nlost.png,high\n")
    with pytest.raises(UserError, match="none of the 2 samples of split test could be read"):
        evaluated(run, tmp_path / "out", table=table)


def test_the_own_table_keeps_its_split_wherever_it_lies(tmp_path: Path, run: Run, quick: dict[str, Any]) -> None:
    data = Path(shutil.copytree(run.folder.parent / "data", tmp_path / "data"))
    rows = pd.read_csv(data / "table.csv").drop(columns="split")
    rows.to_csv(data / "table.csv", index=False)
    trained = train(TrainOptions(table=data / "table.csv", out=tmp_path / "run", **quick)).run
    own = json.loads((trained.folder / "metrics.json").read_text())
    moved = data.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="pass its new path"):
        evaluate(trained, EvaluateOptions(progress=False))
    evaluation = evaluated(trained, tmp_path / "out", table=moved / "table.csv")
    assert len(evaluation.scores) == own["n"] < 16
    assert evaluation.metrics["auroc"].value == own["metrics"]["auroc"]["value"]
    # One label corrected: another table now, whose rows are known by their files and patients all the same.
    rows.loc[0, "label"] = {"low": "high", "high": "low"}[rows.loc[0, "label"]]
    rows.to_csv(moved / "table.csv", index=False)
    evaluation = evaluated(trained, tmp_path / "corrected", table=moved / "table.csv")
    assert (len(evaluation.scores), evaluation.left_out) == (own["n"], 32 - own["n"])
    assert f"{32 - own['n']} rows are left out: the run was trained on their files" in evaluation.report.read_text()
    assert len(evaluated(trained, tmp_path / "all", table=moved / "table.csv", include_training=True).scores) == 32


def test_rows_are_known_by_their_patient_and_by_their_file(run: Run, tmp_path: Path) -> None:
    data = run.folder.parent / "data"
    (data / "copy.png").write_bytes((data / "00.png").read_bytes())  # of a training row, under another name
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40) % 251).convert("L").save(data / "new.png")
    lines = ["path,label,patient_id", "copy.png,low,x1", "new.png,high,Patient0 ", "31.png,low,x2", "30.png,high,"]
    evaluation = evaluated(run, tmp_path / "out", table=other_table(run, "mixed.csv", "\n".join(lines)))
    assert (len(evaluation.scores), evaluation.left_out) == (2, 2)
    text = (run.folder / "seen.json").read_text()
    assert "patient" not in text.replace('"patients"', "")
    with pytest.raises(UserError, match=r"all 1 rows .* --include-training"):
        evaluated(run, tmp_path / "none", table=other_table(run, "seen.csv", "path,label\n01.png,low\n"))


def test_a_label_column_of_another_name_is_named(run: Run, tmp_path: Path) -> None:
    table = other_table(run, "named.csv", "path,diagnosis\n30.png,low\n29.png,high\n28.png,high\n31.png,low\n")
    with pytest.raises(UserError, match="--label"):
        evaluated(run, tmp_path / "out", table=table)
    assert len(evaluated(run, tmp_path / "out", table=table, label="diagnosis").scores) == 4


@pytest.mark.parametrize("column", ["patient_id", "PatientName", "birth_date", "MRN", "Accession Number", "PID"])
def test_columns_that_tell_who_somebody_is_are_refused(run: Run, tmp_path: Path, column: str) -> None:
    with pytest.raises(UserError, match="--allow-identifiers"):
        evaluate(run, EvaluateOptions(out=tmp_path, subgroups=[column], progress=False))


def test_identifiers_that_are_allowed_stand_in_the_report(run: Run, tmp_path: Path) -> None:
    page = evaluated(run, tmp_path / "out", subgroups=["patient_id"], allow_identifiers=True).report.read_text()
    assert "patient12" in page


@pytest.mark.parametrize("name", ["batch_size", "num_bootstrap", "seed", "num_workers"])
def test_numbers_that_no_evaluation_can_have(run: Run, tmp_path: Path, name: str) -> None:
    value = 0 if name in ("batch_size", "num_bootstrap") else -1
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} {value}: expected"):
        evaluate(run, EvaluateOptions(out=tmp_path / "out", progress=False, **{name: value}))
    assert not (tmp_path / "out").exists()
