"""Runs and studies on the same rows, made of predictions alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import roc_auc_score

import softfree
from softfree.cli.main import main
from softfree.data.modalities.image import ImagePreprocessing
from softfree.evaluation.delong import paired_difference
from softfree.inference.run import Run
from softfree.inference.run_directory import RunDirectory
from softfree.reporting.options import CompareOptions
from softfree.reporting.run_comparison import compare_runs
from softfree.reporting.scoring import write_predictions
from softfree_runtime.core.errors import UserError

ROWS = 60
TRUTH = np.arange(ROWS) % 2
FOLDS = np.arange(ROWS) // 2 % 3


def logits(gap: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    common = np.random.default_rng(99).normal(size=ROWS)
    return gap * TRUTH + common + 0.5 * rng.normal(size=ROWS)


@pytest.fixture
def make(tmp_path: Path, write_run: Callable[..., Run]) -> Callable[..., Path]:
    """Return a function that writes a run with given predictions."""

    def write(name: str, scores: np.ndarray, rows: Any = None, split: str = "test", **changes: Any) -> Path:
        folder = tmp_path / name
        folder.parent.mkdir(exist_ok=True)
        write_run(folder, "seqnorm_vit_nano_patch16", ImagePreprocessing("radiograph", 32, "pad", 1))
        directory = RunDirectory(folder)
        config = directory.read_config()
        config["table"] = {"sha256": changes.pop("table", "ab")}
        config["options"] = {"table": "cases.csv"} | changes.pop("options", {})
        if classes := changes.pop("classes", None):
            config["task"]["classes"] = classes
        directory.write_config(config)
        _write(directory, scores, np.arange(ROWS) if rows is None else rows, split, **changes)
        return folder

    return write


def _write(directory: RunDirectory, scores: np.ndarray, rows: np.ndarray, split: str, **columns: Any) -> None:
    classes = directory.read_config()["task"]["classes"]
    frame = pd.DataFrame({"row": rows, "split": split, "patient": rows, "status": "ok", "target": TRUTH[rows]})
    for name, values in columns.items():
        frame[name] = values
    frame[f"logit_{classes[0]}"], frame[f"logit_{classes[1]}"] = 0.0, scores[rows]
    run = Run(directory.root, directory.read_config())
    write_predictions(directory.predictions, frame.sample(frac=1, random_state=0), run)


@pytest.fixture
def make_study(make: Callable[..., Path]) -> Callable[..., Path]:
    """Return a function that writes a study of three folds."""

    def write(name: str, scores: np.ndarray, folds: np.ndarray = FOLDS) -> Path:
        folder = make(name, scores, split="val", fold=folds + 1)
        members = []
        for fold in range(3):
            part = f"{name}/members/fold{fold + 1}"
            options = {"fold": fold + 1, "repeat": 1, "fold_file": "folds.json"}
            member = make(part, scores, np.flatnonzero(folds == fold), "val", options=options)
            digest = RunDirectory(member).weights_digest()
            members.append({"folder": f"members/fold{fold + 1}", "sha256": digest, "temperature": 1.0})
        directory = RunDirectory(folder)
        directory.write_config(directory.read_config() | {"members": members})
        directory.weights.unlink()
        return folder

    return write


def test_runs_are_paired_by_row_and_compared_with_the_first(make: Callable[..., Path]) -> None:
    scores = [logits(gap, seed) for seed, gap in enumerate((1.5, 2.2, 1.4))]
    folders = [make(name, own) for name, own in zip("abc", scores, strict=True)]
    comparison = compare_runs(folders, CompareOptions(margin=0.1))
    assert [run.name for run in comparison.runs] == ["a", "b", "c"]
    assert comparison.runs[0].comparison is None
    p_values = []
    for run, own in zip(comparison.runs, scores, strict=True):
        assert run.auroc.value == pytest.approx(roc_auc_score(TRUTH, own))
        if run.difference is not None:
            expected = paired_difference(TRUTH, own, scores[0])
            assert (run.difference.value, run.difference.p) == pytest.approx((expected.difference, expected.p))
            p_values.append(run.difference.p)
    small, large = min(p_values), max(p_values)
    assert sorted(run.p_holm for run in comparison.runs[1:]) == pytest.approx(
        [min(1, 2 * small), max(large, 2 * small)]
    )
    assert any("Holm" in note for note in comparison.notes)
    other = compare_runs(folders[1:], CompareOptions(reference=folders[0])).runs
    assert [run.difference and run.difference.value for run in other] == [
        run.difference and run.difference.value for run in comparison.runs
    ]


def test_repeated_patients_are_resampled_and_tested(make: Callable[..., Path]) -> None:
    patients = np.arange(ROWS) // 3
    folders = [make(name, logits(gap, 0), patient=patients) for name, gap in (("a", 0.2), ("b", 4.0))]
    difference = compare_runs(folders, CompareOptions(num_bootstrap=200)).runs[1].difference
    assert difference is not None
    assert difference.method.startswith("paired bootstrap over patients, 200 resamples")
    assert difference.low > 0
    assert difference.p < 0.05


def test_studies_are_compared_over_their_folds_too(make: Callable[..., Path], make_study: Callable[..., Path]) -> None:
    scores = [logits(gap, seed) for seed, gap in enumerate((1.5, 2.2))]
    folders = [make_study(name, own) for name, own in zip("ab", scores, strict=True)]
    comparison = compare_runs(folders, CompareOptions())
    assert comparison.runs[1].evaluated == "cross-validation, 3 folds"
    test = comparison.runs[1].folds
    assert test is not None
    expected = [
        roc_auc_score(TRUTH[fold == FOLDS], scores[1][fold == FOLDS])
        - roc_auc_score(TRUTH[fold == FOLDS], scores[0][fold == FOLDS])
        for fold in range(3)
    ]
    assert test.differences == pytest.approx(expected)
    assert test.ratio == 0.5
    plain = make("plain", logits(1.0, 7), split="val")
    mixed = compare_runs([*folders, plain], CompareOptions())
    assert mixed.runs[1].folds == test
    assert mixed.runs[2].folds is None
    other = make_study("other", scores[1], (FOLDS + np.arange(ROWS) // 2 // 3) % 3)
    compared = compare_runs([folders[0], other], CompareOptions())
    assert compared.runs[1].folds is None
    assert "other and a have different folds: the test over folds is left out." in compared.notes


def test_other_rows_are_refused_and_the_common_ones_compared_if_wanted(make: Callable[..., Path]) -> None:
    everyone, some = make("all", logits(1, 0)), make("some", logits(1, 1), np.arange(10, ROWS))
    with pytest.raises(UserError, match=r"all was evaluated on 60 rows \(test split\), some on 50 \(test split\), 50"):
        compare_runs([everyone, some], CompareOptions())
    comparison = compare_runs([everyone, some], CompareOptions(common_rows=True))
    assert comparison.n == 50
    assert "Compared on the 50 rows that all runs were evaluated on (all 60, some 50)." in comparison.notes
    assert comparison.runs[0].auroc.value == pytest.approx(roc_auc_score(TRUTH[10:], logits(1, 0)[10:]))


def test_rows_that_one_could_not_read_are_left_out_of_all(make: Callable[..., Path]) -> None:
    status = np.where(np.arange(ROWS) < 4, "damaged", "ok")
    comparison = compare_runs([make("a", logits(1, 0)), make("b", logits(1, 1), status=status)], CompareOptions())
    assert comparison.n == 56
    assert "4 rows that a run could not read are left out of all." in comparison.notes


def test_patience_on_the_compared_rows_is_said(make: Callable[..., Path]) -> None:
    folders = [
        make(n, logits(1, i), split="val", options={"patience": p}) for i, (n, p) in enumerate((("a", 3), ("b", None)))
    ]
    notes = compare_runs(folders, CompareOptions()).notes
    assert notes[0] == "a kept the epoch that was best on these rows (--patience): its AUROC is optimistic."


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"table": "cd"}, {}, "b and a were trained on different tables, or versions of one"),
        ({"classes": ["well", "worse"]}, {}, r"b predicts well, worse \(binary\), a well, ill \(binary\)"),
        ({"target": 1 - TRUTH}, {}, "b and a were trained on different labels: 60 of 60 rows differ"),
        ({"patient": np.arange(ROWS) // 2}, {}, "grouped into patients differently"),
        ({}, {"split": "val"}, "a was not evaluated on the split val: it has predictions for test"),
        ({}, {"split": "train"}, "runs keep no predictions for training rows"),
        ({}, {"margin": 2.0}, "non-inferiority margin of 2.0"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    make: Callable[..., Path], changes: dict, options: dict, message: str
) -> None:
    folders = [make("a", logits(1, 0)), make("b", logits(1, 1), **changes)]
    with pytest.raises(UserError, match=message):
        compare_runs(folders, CompareOptions(**options))


def test_one_run_and_the_same_run_twice_are_refused(make: Callable[..., Path], tmp_path: Path) -> None:
    folder = make("a", logits(1, 0))
    with pytest.raises(UserError, match="expected two or more"):
        compare_runs([folder], CompareOptions())
    with pytest.raises(UserError, match="is named twice"):
        compare_runs([folder, tmp_path / "." / "a"], CompareOptions())
    RunDirectory(folder).predictions.unlink()
    with pytest.raises(UserError, match=r"predictions.csv is missing or was changed"):
        compare_runs([folder, make("b", logits(1, 0))], CompareOptions())


def test_the_command_prints_and_writes(
    make: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    names = ["a", "b", "c & <d>"]
    folders = [str(make(name, logits(1 + seed, seed))) for seed, name in enumerate(names)]
    out = tmp_path / "out"
    assert main(["compare", *folders, "--out", str(out), "--margin", "0.2"]) == 0
    printed = capsys.readouterr().out
    assert "cases.csv: 60 samples" in printed
    assert "is better than a, and therefore not inferior" in printed.replace("\n", " ")
    table = pd.read_csv(out / "comparison.csv")
    assert table["run"].tolist() == names
    assert table["difference"].notna().tolist() == [False, True, True]
    content = json.loads((out / "comparison.json").read_text())
    assert content["runs"][2]["p_holm"] == pytest.approx(table["p_holm"][2])
    page = (out / "comparison.html").read_text()
    assert page.count("<svg") == 2
    assert "c &amp; &lt;d&gt;" in page
    assert "<d>" not in page
    assert main(["compare", *folders, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reference"] == "a"
    assert softfree.compare(folders).runs[1].difference.value == pytest.approx(table["difference"][1])
    assert main(["compare", folders[0]]) == 2
    assert yaml.safe_load((Path(folders[0]) / "config.yaml").read_text())["table"] == {"sha256": "ab"}
    assert math.isnan(softfree.compare(folders).runs[0].p_holm)
