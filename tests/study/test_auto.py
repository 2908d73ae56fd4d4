"""A study from a table to an ensemble that is used like a run, killed on the way and resumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from tests.conftest import leave_out_figures

import softfree_runtime
from softfree.cli.main import main
from softfree.core.options import TrainOptions
from softfree.data.folds import read_folds
from softfree.data.table import read_table
from softfree.deployment.options import ExportOptions
from softfree.deployment.pipeline import export
from softfree.evaluation.calibration import fit_temperature
from softfree.evaluation.conformal import fit_sets
from softfree.inference.reproduction import reproduce
from softfree.inference.run import Run
from softfree.reporting.coverage import coverage_of
from softfree.reporting.evaluate import evaluate
from softfree.reporting.facts import near_duplicates_in_words
from softfree.reporting.options import EvaluateOptions
from softfree.saliency.api import explain
from softfree.saliency.options import ExplainOptions
from softfree.study import members as members_module
from softfree.study.auto import StudyResult, auto, near_duplicates
from softfree.study.options import AutoOptions
from softfree.study.plan_file import read_audit
from softfree.study.study_directory import MemberKey, StudyDirectory
from softfree.study.timing import time_training
from softfree.training.distillation import open_teacher
from softfree_runtime.core.errors import UserError


@pytest.fixture(scope="module")
def begin(tmp_path_factory: pytest.TempPathFactory, make_small_table: Callable, quick: dict[str, Any]) -> Callable:
    """Return a function that makes options of a small study of one table."""
    folder = tmp_path_factory.mktemp("study")
    table = make_small_table(folder / "data")
    rows = pd.read_csv(table)
    rows.to_csv(table, index=False)
    train = {name: value for name, value in quick.items() if name not in ("progress", "accelerator")}

    def make(out: str = "study", **changes: Any) -> tuple[Path, AutoOptions]:
        options = {"out": folder / out, "folds": 2, "train": train, "progress": False} | changes
        return table, AutoOptions(**options)

    return make


@pytest.fixture(scope="module")
def study(begin: Callable) -> StudyResult:
    """A finished study, stopped in its second training and begun again."""
    table, options = begin()
    with leave_out_figures():
        with pytest.MonkeyPatch.context() as patch:
            real = members_module.train
            calls = []

            def stopped_in_the_second(train_options: Any) -> Any:
                calls.append(train_options.fold)
                if len(calls) == 2:
                    raise KeyboardInterrupt
                return real(train_options)

            patch.setattr(members_module, "train", stopped_in_the_second)
            with pytest.raises(KeyboardInterrupt):
                auto(table, options)
        assert calls == [1, 2]
        weights = StudyDirectory(options.out).members / "fold1" / "model.safetensors"
        written = weights.stat().st_mtime_ns
        result = auto(table, options)
        assert weights.stat().st_mtime_ns == written, "the first training was kept"
    assert result is not None
    return result


def test_each_sample_is_predicted_by_the_member_that_did_not_see_it(study: StudyResult) -> None:
    directory = study.run.directory
    pooled = directory.read_predictions()
    held = pooled[pooled["split"] == "val"]
    assert len(held) == 24
    assert held["fold"].value_counts().tolist() == [12, 12]
    ratios = []
    for fold in (1, 2):
        member = Run.load(directory.root / "members" / f"fold{fold}").directory.read_predictions().set_index("row")
        rows = held[held["fold"] == fold].set_index("row")
        ratios.append(member.loc[rows.index, "logit_high"] / rows["logit_high"])
        assert rows["threshold_low"].nunique() == 1
    temperature = study.run.members[0].calibration.temperature
    np.testing.assert_allclose(pd.concat(ratios), temperature, rtol=1e-6)  # of both folds together
    logits = held[[f"logit_{name}" for name in study.run.task.classes]].to_numpy() * temperature
    assert temperature == pytest.approx(fit_temperature(logits, held["target"].to_numpy(), study.run.task), rel=1e-3)
    assert study.run.members[1].calibration.temperature == temperature
    assert {"baseline_copy_high", "p_high", "predicted"} <= set(pooled.columns)
    assert ((held["predicted"] == "low") == (held["p_low"] >= held["threshold_low"])).all()
    assert study.evaluation.scores.thresholds is not None
    assert len(study.evaluation.scores) == 24


def test_sets_of_a_fold_are_chosen_on_the_others(study: StudyResult) -> None:
    assert study.evaluation.coverage is not None
    assert study.evaluation.coverage.all.covered == 1, "six patients of a class are too few, so that all are in the set"
    assert study.evaluation.coverage.abstained == 1
    rows = study.run.directory.read_predictions()
    scores = study.evaluation.scores
    assert study.run.calibration.sets == fit_sets(scores, 0.9)
    generous = replace(study.run.calibration, sets=replace(study.run.calibration.sets, coverage=0.6))
    measured = coverage_of(replace(study.run, calibration=generous), rows, scores)
    plausible = np.zeros((24, 2), bool)
    for fold in (1, 2):
        inside = (rows["fold"] == fold).to_numpy()
        plausible[inside] = fit_sets(scores.subset(~inside), 0.6).plausible(scores.probabilities[inside], scores.task)
    assert measured is not None
    assert measured.abstained == (plausible.sum(axis=1) != 1).mean() < 1
    assert measured.all.covered == plausible[np.arange(24), scores.targets].mean()


def test_the_fixed_test_rows_are_judged_by_the_ensemble(study: StudyResult) -> None:
    assert study.test is not None
    assert len(study.test.scores) == 8
    assert study.test.report.parent.name == "test"
    page = study.test.report.read_text()
    assert "test split, ensemble of 2" in page
    cross_validated = study.evaluation.report.read_text()
    assert "cross-validation with 2 folds" in cross_validated
    assert "Audit before training: " in cross_validated
    for text in (page, cross_validated):
        assert "<h2>Subgroups</h2>" in text
        assert "<h3>site</h3>" in text
    assert "The AUROC of the folds has a mean of" in cross_validated


def test_the_study_is_used_like_a_run(study: StudyResult, begin: Callable) -> None:
    table, _ = begin()
    run = Run.load(study.run.folder)
    images = sorted(table.parent.glob("*.png"))[:5]
    rows = run.predict(images)
    parts = [member.predict(images) for member in run.members]
    logits = [np.log(part["p_high"] / part["p_low"]) for part in parts]
    np.testing.assert_allclose(np.log(rows["p_high"] / rows["p_low"]), np.mean(logits, axis=0), atol=1e-5)
    spread = np.std([part["p_high"] for part in parts], axis=0)
    np.testing.assert_allclose(rows["disagreement"], spread, atol=1e-6)
    np.testing.assert_allclose(rows["distance"], np.mean([part["distance"] for part in parts], axis=0), rtol=1e-6)
    pooled = study.run.directory.read_predictions().set_index("row")
    for member in run.members:
        held = member.directory.read_predictions().query("split == 'val'").set_index("row")["distance"]
        np.testing.assert_allclose(pooled.loc[held.index, "distance"], held)
    planned = yaml.safe_load(StudyDirectory(study.run.folder).plan.read_text())["estimate"]["seconds"]
    assert study.run.directory.read_cost()["planned"]["seconds"] == planned > 0
    assert f"(planned: {planned} s)" in study.evaluation.report.read_text()


def test_the_documents_of_the_study_describe_its_ensemble(study: StudyResult) -> None:
    folder = study.run.directory.documents
    assert {path.name for path in folder.glob("*.html")} == {
        "model_card.html", "methods.html", "tripod_ai.html", "claim_2024.html",
    }  # fmt: skip
    text = (folder / "methods.md").read_text()
    assert "patients drawn into 2 folds" in text
    assert "Cross-validation: 24 images of 12 patients (12 high, 12 low); fixed test rows: 8 images of 4" in text
    assert "The final model is an ensemble of 2: the mean of their logits, each calibrated." in text
    assert f"Cross-validation, 24 images of 12 patients: AUROC {study.evaluation.metrics['auroc'].value:.3f}" in text


def test_suspect_labels_are_in_the_report_and_a_file(study: StudyResult, capsys: pytest.CaptureFixture[str]) -> None:
    suspects = pd.read_csv(study.run.directory.suspects)
    assert list(suspects) == ["row", "fold", "label", "suggested", "p_label", "p_suggested"]
    held = study.run.directory.read_predictions().set_index("row")
    for suspect in suspects.to_dict("records"):
        row = held.loc[suspect["row"]]
        assert suspect["label"] == study.run.task.classes[int(row["target"])]
        assert suspect["p_label"] == pytest.approx(row[f"p_{suspect['label']}"], abs=1e-4)
        assert suspect["fold"] == row["fold"]
    assert study.run.directory.read_metrics()["suspect_labels"] == len(suspects)
    page = study.evaluation.report.read_text()
    assert "<h2>Suspect labels</h2>" in page
    assert f"{len(suspects)} of 24 labels are improbable" in page
    assert study.test is not None
    assert "Suspect labels" not in study.test.report.read_text(), "the ensemble has no folds"
    assert main(["check", str(study.run.folder)]) == 0
    assert "Suspect labels, to be looked at: " in capsys.readouterr().out


def test_nearly_identical_images_of_two_folds_are_joined(study: StudyResult, begin: Callable, tmp_path: Path) -> None:
    path, _ = begin()
    table = read_table(path, val_fraction=0.0, test_fraction=1.0)
    folds = read_folds(StudyDirectory(study.run.folder).folds)
    members = {}
    for fold, lines in ((1, "4,val,9,train,0.9\n20,train,2,val,0.95\n"), (2, "9,val,4,train,0.9\n")):
        members[MemberKey(fold)] = Run(tmp_path / str(fold), {})
        (tmp_path / str(fold)).mkdir()
        header = "row_a,split_a,row_b,split_b,similarity\n"
        (tmp_path / str(fold) / "near_duplicates.csv").write_text(header + lines)
    pairs = near_duplicates(members, table, folds)
    assert pairs is not None
    fold_of = [folds.names[number] for number in folds.numbers[0]]
    assert pairs.values.tolist() == [[2, fold_of[2], 20, fold_of[20], 0.95], [4, fold_of[4], 9, fold_of[9], 0.9]]
    words = near_duplicates_in_words(pairs, "fold")
    assert words.startswith("2 pairs of identical or nearly identical images in different folds, so that scores are")
    assert f"rows 2 (fold {fold_of[2]}) and 20 (fold {fold_of[20]})" in words
    assert near_duplicates({MemberKey(1): study.run}, table, folds) is None


def test_every_member_of_the_study_is_checked(study: StudyResult) -> None:
    results = reproduce(study.run.folder)
    assert [Path(name).name for name in results] == ["fold1", "fold2"]
    assert all(result.same for result in results.values())


def test_a_map_of_the_study_is_the_mean_of_its_members(study: StudyResult, begin: Callable, tmp_path: Path) -> None:
    table, _ = begin()
    image = [str(table.parent / "05.png")]
    run = Run.load(study.run.folder)
    (whole,) = explain(run, image, ExplainOptions(method="split", target="high", out=tmp_path / "maps"))
    parts = [
        explain(member, image, ExplainOptions(method="split", target="high", out=tmp_path / f"maps{number}"))[0]
        for number, member in enumerate(run.members)
    ]
    np.testing.assert_allclose(whole.maps[0].values, np.mean([part.maps[0].values for part in parts], axis=0))
    assert whole.maps[0].values.sum() == pytest.approx(whole.maps[0].log_odds, abs=1e-5)
    row = run.predict(image)
    assert whole.maps[0].log_odds == pytest.approx(np.log(row["p_high"] / row["p_low"])[0], abs=1e-5)
    (default,) = explain(run, image, ExplainOptions(method="gradient", out=tmp_path / "default"))
    assert run.task.classes[default.maps[0].target] == row["predicted"][0]


@pytest.mark.slow
def test_a_study_is_exported_as_one_file(study: StudyResult, begin: Callable, tmp_path: Path) -> None:
    table, _ = begin()
    exported = export(study.run.folder, ExportOptions(out=tmp_path / "study.onnx", count=4))
    assert exported.size is None
    images = [str(path) for path in sorted(table.parent.glob("*.png"))[:3]]
    rows = softfree_runtime.predict(exported.path, images)
    expected = Run.load(study.run.folder).predict(images)
    np.testing.assert_allclose([row["p_high"] for row in rows], expected["p_high"], atol=1e-6)


def test_a_study_is_no_teacher_but_its_members_are(study: StudyResult) -> None:
    folder = study.run.folder
    with pytest.raises(UserError, match=r"is a study, .*: name one of them, such as \S+fold1"):
        open_teacher(folder, {})
    config = Run.load(folder / "members" / "fold1").config
    assert open_teacher(folder / "members" / "fold1", dict(config)) is not None


def test_held_out_rows_are_never_predicted_by_the_ensemble(study: StudyResult, tmp_path: Path) -> None:
    run = Run.load(study.run.folder)
    again = evaluate(run, EvaluateOptions(split="val", out=tmp_path / "again", precision="bf16", progress=False))
    np.testing.assert_array_equal(again.scores.probabilities, study.evaluation.scores.probabilities)
    original = run.directory.predictions.read_bytes()
    try:
        run.directory.predictions.write_bytes(original + b"\n")
        with pytest.raises(UserError, match=r"predictions of .* for held-out rows are missing or were changed"):
            evaluate(run, EvaluateOptions(split="val", out=tmp_path / "third", progress=False))
    finally:
        run.directory.predictions.write_bytes(original)


def test_a_study_goes_on_only_as_it_began(study: StudyResult, begin: Callable) -> None:
    table, options = begin(folds=3)
    with pytest.raises(UserError, match="was begun with other folds"):
        auto(table, options)
    table, options = begin(train={})
    plan = StudyDirectory(options.out).plan
    text = plan.read_text()
    try:
        plan.write_text(text.replace("epochs: ", "epochs: 1"))
        with pytest.raises(UserError, match=r"fold1 was trained with epochs \d+, but .*plan.yaml says 1"):
            auto(table, options)
        plan.write_text(text.replace("\ntrain:", "\ntrain:\n  patients: 3"))
        with pytest.raises(UserError, match="softfree train has no option 'patients'"):
            auto(table, options)
        plan.write_text(text.replace("\ntrain:", "\ntrain:\n  patience: 3"))
        with pytest.raises(UserError, match="patience would choose epochs on the held-out samples"):
            auto(table, options)
    finally:
        plan.write_text(text)


def test_a_dry_run_leaves_a_plan_with_reasons(begin: Callable) -> None:
    table, options = begin("dry", train={}, dry_run=True)
    assert auto(table, options) is None
    directory = StudyDirectory(options.out)
    text = directory.plan.read_text()
    assert "preset: radiograph" in text
    assert "0 % of the images have colors" in text
    assert read_audit(directory.plan) == ["no problem found"]
    assert not directory.members.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 13}, "13 folds: class 'high' has"),
        ({"budget": "soon"}, "--budget soon: expected a number and a unit, such as 90m, 2h or 1d"),
        ({"budget": "1s", "train": {}}, "--budget 1s: the smallest plan, 2 trainings at 128 pixels, takes about"),
        ({"train": {"seed": 3}}, "seed is set by the study; remove it"),
        ({"train": {"patience": 3}}, "patience would choose epochs on the held-out samples"),
        ({"train": {"epochs": 0}}, "--epochs 0: expected 1 or more"),
        ({"train": {"epochs": "ten"}}, "epochs 'ten': expected a whole number"),
        ({"train": {"size": "big"}}, "size 'big': expected a whole number"),
        ({"train": {"batch_size": 0}}, "--batch-size 0: expected 1 or more"),
        ({"train": {"shape": 3}}, "shape 3: expected a list of whole numbers"),
        ({"train": {"epoks": 3}}, "--train: softfree train has no option 'epoks'"),
        ({"train": {"preset": "radiograph", "mixup": 0.2}}, "--mixup and --cutmix are for the color presets"),
        ({"pretrain": {"epochs": "ten"}}, "epochs 'ten': expected a whole number"),
        ({"pretrain": {"size": 3}}, "pretrain: size is that of the trainings; remove it, or set it for train"),
        ({"pretrain": {"epoch": 3}}, "pretrain: softfree pretrain has no option epoch"),
    ],
)
def test_impossible_studies_are_refused_before_any_training(begin: Callable, changes: dict, message: str) -> None:
    table, options = begin(f"refused {len(message)}", **changes)
    with pytest.raises(UserError, match=message):
        auto(table, options)
    assert not StudyDirectory(options.out).plan.exists(), "other options may follow at once"


def test_options_that_differ_from_the_plan_are_refused(begin: Callable) -> None:
    table, options = begin("planned", dry_run=True)
    assert auto(table, options) is None
    directory = StudyDirectory(options.out)
    text = directory.plan.read_text()
    train = options.train
    for changes, message in (
        (
            {"train": {**train, "epochs": 7}},
            r"--train says epochs 7, but .*plan.yaml has epochs 1: leave it out, change",
        ),
        ({"train": {"weight_decay": 0.3}}, r"--train says weight_decay 0.3, but .* has weight_decay 0.05"),
        ({"pretrain": {"epochs": 3}}, r"--pretrain says epochs 3, but .*plan.yaml has no pretrain"),
    ):
        with pytest.raises(UserError, match=message):
            auto(table, replace(options, **changes))
    assert directory.plan.read_text() == text
    directory.plan.write_text(text.replace("epochs: 1\n", "epochs: 7\n") + "pretrain: {epochs: 3, lr: 1.0e-3}\n")
    for changes in ({"train": {**train, "epochs": 7}, "pretrain": {"epochs": 3, "lr": 0.001}}, {"train": {}}):
        assert auto(table, replace(options, **changes)) is None, "as the edited plan says"
    with pytest.raises(UserError, match=r"--pretrain says epochs 4, but .* has epochs 3"):
        auto(table, replace(options, train={}, pretrain={"epochs": 4}))


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")],
)
def test_a_step_that_does_not_fit_into_memory_is_one_line(
    begin: Callable, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    real = torch.stack

    def stack(tensors: Any, **options: Any) -> torch.Tensor:
        if len(tensors) == 11:
            raise error
        return real(tensors, **options)

    table, _ = begin()
    monkeypatch.setattr("softfree.study.timing.torch.stack", stack)
    with pytest.raises(UserError, match="a training step does not fit into memory; set --train"):
        time_training(TrainOptions(table=table, size=32, batch_size=11), read_table(table))


def test_a_foreign_folder_is_not_touched(begin: Callable, tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("x")
    table, _ = begin()
    with pytest.raises(UserError, match=r"is not empty and has no plan.yaml of a study"):
        auto(table, AutoOptions(out=tmp_path))


@pytest.mark.slow
def test_each_training_begins_with_weights_pretrained_on_its_own_folds(
    begin: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, options = begin("pretrained", pretrain={"epochs": 1, "decoder_depth": 1, "batch_size": 4})
    directory = StudyDirectory(options.out)
    real = members_module.train

    def stopped(train_options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(members_module, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        auto(table, options)
    weights = directory.pretrained / "fold1" / "model.safetensors"
    assert "pretrain:\n  batch_size: 4\n  decoder_depth: 1\n  epochs: 1\n" in directory.plan.read_text()
    written = weights.stat().st_mtime_ns
    monkeypatch.setattr(members_module, "train", real)
    with leave_out_figures():
        result = auto(table, options)
    assert result is not None
    assert weights.stat().st_mtime_ns == written, "the finished pretraining was kept"
    folds = read_folds(directory.folds)
    for fold, member in enumerate(result.run.members):
        name = f"fold{fold + 1}"
        assert member.config["options"]["weights"] == str((directory.pretrained / name).resolve())
        note = yaml.safe_load((directory.pretrained / name / "config.yaml").read_text())["pretraining"]["rows"]
        count = np.isin(folds.numbers[0], [number for number in (0, 1) if number != fold]).sum()
        assert note == f"the {count} rows outside of fold {fold + 1}, out of 32"
