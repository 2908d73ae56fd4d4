"""What an evaluation measures and writes."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from softfree.errors import UserError
from softfree.options import EvaluateOptions, TrainOptions
from softfree.reporting import Evaluation, evaluate
from softfree.runs import Run
from softfree.training.loop import train


def evaluated(run: Run, out: Path, **changes: Any) -> Evaluation:
    out.mkdir(exist_ok=True)
    return evaluate(run, EvaluateOptions(out=out, resamples=50, progress=False, **changes))


def other_table(run: Run, name: str, content: str) -> Path:
    path = run.folder.parent / "data" / name
    path.write_text(content)
    return path


def test_numbers_are_those_of_the_predictions_written_beside(run: Run, tmp_path: Path) -> None:
    found = evaluated(run, tmp_path / "out", split="val")
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert rows["row"].tolist() == list(range(16, 24))
    assert found.metrics["auroc"].value == roc_auc_score(rows["target"], rows["p_low"])
    right = (rows["predicted"] == "low") == (rows["target"] == 1)
    assert found.metrics["accuracy"].value == right.mean()
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (written["split"], written["n"], written["patients"], written["unreadable"]) == ("val", 8, 4, 0)
    assert written["metrics"]["auroc"]["value"] == found.metrics["auroc"].value
    assert found.report == tmp_path / "out" / "report.html"


def test_the_page_says_what_was_measured_and_what_it_cost(run: Run, tmp_path: Path) -> None:
    page = evaluated(run, tmp_path / "out", by=["site"]).report.read_text()
    assert "seqnorm_vit_nano_patch16 on table.csv, test split" in page
    for words in ("Multiply-adds per sample", "The split is the table", "with temperature", "left-right flips"):
        assert words in page
    assert "data:image/png" not in page, "no picture unless it is asked for"


def test_maps_are_shown_where_they_are_asked_for(run: Run, tmp_path: Path) -> None:
    page = evaluated(run, tmp_path / "out", maps=3).report.read_text()
    assert page.count("data:image/png") == 6, "each beside its sample"
    assert "What it looked at" in page
    assert "What it looked at" not in evaluated(run, tmp_path / "plain").report.read_text()


def test_another_precision_is_predicted_anew(run: Run, tmp_path: Path) -> None:
    logits = {}
    for precision in ("32", "bf16"):
        evaluated(run, tmp_path / precision, precision=precision)
        logits[precision] = pd.read_csv(tmp_path / precision / "predictions.csv")["logit_low"]
    assert 0 < (logits["32"] - logits["bf16"]).abs().max() < 0.1


def test_rows_that_training_did_not_store_are_predicted(run: Run, tmp_path: Path) -> None:
    found = evaluated(run, tmp_path / "out", split="train")
    assert found.scores.targets.tolist() == [1, 1, 0, 0] * 4
    assert pd.read_csv(tmp_path / "out" / "predictions.csv")["row"].tolist() == list(range(16))
    assert set(pd.read_csv(run.folder / "predictions.csv")["split"]) == {"val", "test"}


def test_unreadable_pictures_are_counted_and_explained(run: Run, tmp_path: Path) -> None:
    table = other_table(run, "some.csv", "path,label\n00.png,low\ngone.png,low\n02.png,high\n03.png,high\n")
    found = evaluated(run, tmp_path / "out", table=table)
    assert len(found.scores) == 3
    assert list(found.failed) == [1]
    assert "no such file" in found.failed[1]
    assert "gone" not in found.failed[1], "names may be those of patients"
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["unreadable"] == 1
    assert "1 of 4 samples of this split could not be read and are left out: missing." in found.report.read_text()


def test_a_comparison_takes_the_same_pictures(run: Run, tmp_path: Path, quick: dict[str, Any]) -> None:
    rival = train(TrainOptions(table=Path(run.config["options"]["table"]), out=tmp_path / "rival", **quick, seed=1))
    found = evaluated(run, tmp_path / "out", against=rival.folder, margin=0.1)
    theirs = evaluated(rival, tmp_path / "theirs").metrics["auroc"].value
    assert found.comparison is not None
    difference = found.comparison.differences["auroc"]
    assert (difference.a, difference.b) == (found.metrics["auroc"].value, theirs)
    assert found.comparison.verdict in found.report.read_text()
    assert found.comparison.margin == 0.1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"out": None, "table": Path("other.csv")}, "needs --out"),
        ({"by": ["planet"]}, "--by planet: no such column; the table has path, label"),
        ({"against": Path("nowhere")}, "nowhere is not a run directory"),
    ],
)
def test_mistakes(run: Run, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    chosen: dict[str, Any] = {"out": tmp_path, "resamples": 50, "progress": False}
    with pytest.raises(UserError, match=words):
        evaluate(run, EvaluateOptions(**(chosen | changes)))


def test_a_split_without_rows_or_readable_pictures(run: Run, tmp_path: Path) -> None:
    table = other_table(run, "val.csv", "path,label,split\n00.png,low,val\n02.png,high,val\n")
    with pytest.raises(UserError, match="no row in split test; it has 2 in val"):
        evaluated(run, tmp_path / "out", table=table)
    table = other_table(run, "gone.csv", "path,label\ngone.png,low\nlost.png,high\n")
    with pytest.raises(UserError, match="none of the 2 pictures of split test could be read"):
        evaluated(run, tmp_path / "out", table=table)
