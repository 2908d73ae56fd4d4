"""A search for options on a small table, killed on the way and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from tests.conftest import leave_out_figures

from softfree.cli.main import main
from softfree.core.options import TrainOptions
from softfree.evaluation.plots import svg
from softfree.evaluation.plots.trials import scores_by_option
from softfree.inference.run_directory import RunDirectory
from softfree.study import tune as tune_module
from softfree.study.options import TuneOptions
from softfree.study.space import default_space, defaults_within, suggest
from softfree.study.tune import tune
from softfree.study.tune_report import TuningResult
from softfree_runtime.core.errors import UserError

optuna = pytest.importorskip("optuna")
SPACE = {"lr": {"low": 1e-4, "high": 1e-2}, "pool": ["avg", "mean_topk"]}


@pytest.fixture(scope="module")
def begin(tmp_path_factory: pytest.TempPathFactory, make_small_table: Callable, quick: dict[str, Any]) -> Callable:
    """Return a function that makes options of a search on one table."""
    folder = tmp_path_factory.mktemp("tune")
    table = make_small_table(folder / "data")
    train = {name: value for name, value in quick.items() if name not in ("progress",)}

    def make(out: str = "tuned", **changes: Any) -> tuple[Path, TuneOptions]:
        options = {"out": folder / out, "trials": 3, "train": train, "space": SPACE, "progress": False} | changes
        return table, TuneOptions(**options)

    return make


@pytest.fixture(scope="module")
def result(begin: Callable) -> TuningResult:
    """A finished search, killed in its second trial and begun again."""
    table, options = begin()
    with leave_out_figures():
        with pytest.MonkeyPatch.context() as patch:
            real, calls = tune_module.train, []

            def killed_in_the_second(train_options: TrainOptions, **changes: Any) -> Any:
                calls.append(train_options)
                if len(calls) == 2:
                    raise SystemExit
                return real(train_options, **changes)

            patch.setattr(tune_module, "train", killed_in_the_second)
            with pytest.raises(SystemExit):
                tune(table, options)
            found = tune(table, options)
        assert len(calls) == 4
        again, killed = calls[2], calls[1]
        assert (again.lr, again.pool) == (killed.lr, killed.pool), "the interrupted trial is begun again"
    return found


def test_the_first_trial_has_the_defaults_and_all_stay_in_the_space(result: TuningResult) -> None:
    trials = result.trials
    assert len(trials) == 3
    assert trials["state"].tolist() == ["complete"] * 3
    assert (trials["lr"][0], trials["pool"][0]) == (5e-4, "mean_topk")
    assert trials["lr"].between(1e-4, 1e-2).all()
    assert set(trials["pool"]) <= {"avg", "mean_topk"}


def test_scores_are_those_of_validation_rows_alone(result: TuningResult) -> None:
    (folder,) = (result.folder / "trials").iterdir()  # only the best run is kept
    run = RunDirectory(folder / "fold1")
    rows = run.read_predictions()
    assert sorted(rows["row"]) == list(range(16, 24)), "no test row was predicted"
    metrics = run.read_metrics()
    assert metrics["split"] == "val"
    assert result.score == metrics["metrics"]["auroc"]["value"] == result.trials["auroc"].max()


def test_the_best_options_are_taken_by_train_and_auto(result: TuningResult, begin: Callable) -> None:
    content = yaml.safe_load(result.file.read_text())
    best = result.trials.loc[result.trials["auroc"].idxmax()]
    assert content["lr"] == best["lr"]
    assert content["pool"] == best["pool"]
    assert content["epochs"] == 1
    table, _ = begin()
    out = str(result.folder.parent / "run")
    assert main(["train", str(table), "--config", str(result.file), "--out", out, "--no-progress"]) == 0
    assert RunDirectory(out).read_config()["options"]["lr"] == content["lr"]
    arguments = ["auto", str(table), "--folds", "2", "--dry-run", "--no-progress", "--train", result.file.read_text()]
    study = result.folder.parent / "study"
    assert main([*arguments, "--out", str(study)]) == 0
    assert yaml.safe_load((study / "plan.yaml").read_text())["train"]["lr"] == content["lr"]


def test_the_report_says_that_the_best_score_is_optimistic(result: TuningResult) -> None:
    page = (result.folder / "report.html").read_text()
    assert "The score of the best trial is optimistic" in page
    assert page.count("<svg") == 3
    assert "The best validation AUROC of 3 trials (3 complete)" in page
    assert pd.read_csv(result.folder / "trials.csv")["trial"].tolist() == result.trials["trial"].tolist()
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["best"]["pool"] in ("avg", "mean_topk")


def test_it_goes_on_only_as_it_began_and_may_go_on_longer(result: TuningResult, begin: Callable) -> None:
    table, options = begin(space={"pool": ["avg"]})
    with pytest.raises(UserError, match="was begun with space"):
        tune(table, options)
    table, options = begin(budget="1s", trials=3)
    assert tune(table, options).trials.equals(result.trials)


def test_trials_worse_than_the_median_are_stopped() -> None:
    """Scores of training are replaced by numbers, so that a trial is clearly worse."""
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(5))
    seen = []
    for number in range(8):
        trial = study.ask()
        callback = tune_module._ReportScore(trial, [])
        value = 0.9 if number < 6 else 0.5

        class Trainer:
            callback_metrics, current_epoch, max_epochs = {"val_auroc": value}, 0, 3

        try:
            callback.on_train_epoch_end(Trainer(), None)  # type: ignore[arg-type]
            study.tell(trial, value)
            seen.append("complete")
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            seen.append("pruned")
    assert seen == ["complete"] * 6 + ["pruned"] * 2


def test_a_stopped_trial_leaves_no_run_and_the_next_begins(
    begin: Callable, monkeypatch: pytest.MonkeyPatch, without_figures: None
) -> None:
    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda trial: trial.number == 0)
    table, options = begin("stopped", trials=2)
    result = tune(table, options)
    assert result.trials["state"].tolist() == ["stopped early", "complete"]
    assert result.trials["auroc"].isna().tolist() == [True, False]
    (folder,) = (result.folder / "trials").iterdir()
    assert RunDirectory(folder / "fold1").is_finished()


def test_a_failing_trial_is_recorded_and_others_go_on(begin: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    table, options = begin("failing", trials=4)
    scores = iter([0.7, "the loss is nan at epoch 1", 0.8, 0.6])

    def scored(*_: Any) -> tuple[float, float, float]:
        value = next(scores)
        if isinstance(value, str):
            raise UserError(value)
        return value, 0.5, 0.9

    monkeypatch.setattr(tune_module, "_score", scored)
    monkeypatch.setattr(tune_module, "_keep_best", lambda *_: None)
    result = tune(table, options)
    assert result.trials["state"].tolist() == ["complete", "failed", "complete", "complete"]
    assert result.trials["reason"][1] == "the loss is nan at epoch 1"
    assert (result.score, result.low, result.high) == (0.8, 0.5, 0.9)
    assert "failed: the loss is nan at epoch 1" in (result.folder / "report.html").read_text()


def test_if_no_trial_succeeds_the_search_ends_with_the_reason(begin: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    table, options = begin("hopeless", trials=9)

    def refused(*_: Any) -> None:
        raise UserError("training does not fit in memory")

    monkeypatch.setattr(tune_module, "_score", refused)
    with pytest.raises(UserError, match="training does not fit in memory"):
        tune(table, options)
    assert len(pd.read_csv(options.out / "trials.csv")) == 3


def test_folds_are_averaged_and_machines_with_one_storage_share_a_search(
    begin: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shared = f"sqlite:///{tmp_path}/shared.db"
    folds: list[int] = []

    def finished(options: TrainOptions, **_: Any) -> None:
        folds.append(options.fold or 0)
        run = RunDirectory(options.out)
        run.metrics.parent.mkdir(parents=True)
        auroc = {"value": 0.6 + 0.1 * (options.fold or 0), "low": None, "high": None}
        run.metrics.write_text(json.dumps({"metrics": {"auroc": auroc}}))

    monkeypatch.setattr(tune_module, "train", finished)
    table, options = begin("first machine", trials=2, folds=3, storage=shared)
    first = tune(table, options)
    assert folds == [1, 2, 3] * 2
    assert first.trials["auroc"].tolist() == pytest.approx([0.8, 0.8])
    assert np.isnan(first.low)
    table, options = begin("second machine", trials=3, folds=3, storage=shared)
    assert len(tune(table, options).trials) == 3


@pytest.mark.parametrize(("trials", "killed"), [(3, 2), (3, 3), (1, 1)])
def test_a_trial_that_is_killed_is_begun_again_also_if_it_is_the_last(
    begin: Callable, monkeypatch: pytest.MonkeyPatch, trials: int, killed: int
) -> None:
    calls: list[float] = []

    def scored(trial: Any, chosen: dict[str, Any], *_: Any) -> tuple[float, float, float]:
        calls.append(chosen["lr"])
        if len(calls) in (killed, killed + 1):  # twice
            raise SystemExit
        return 0.7, 0.5, 0.9

    monkeypatch.setattr(tune_module, "_score", scored)
    monkeypatch.setattr(tune_module, "_keep_best", lambda *_: None)
    table, options = begin(f"killed {killed} of {trials}", trials=trials)
    for _ in range(2):
        with pytest.raises(SystemExit):
            tune(table, options)
    result = tune(table, options)
    assert result.trials["state"].tolist() == ["complete"] * trials
    assert len(calls) == trials + 2
    assert calls[killed - 1] == calls[killed] == calls[killed + 1], "the same trial"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, "--trials 0: expected 1 or more"),
        ({"space": {"lr": {"low": 1}}}, "--space: lr is {'low': 1}: expected a list, or a range"),
        ({"space": {"lr": {"low": 2, "high": 1}}}, "low below high"),
        ({"space": {"lr": []}}, "expected a list of numbers"),
        ({"space": {"lrr": [1]}}, "--space: softfree train has no option 'lrr'"),
        ({"space": {"patience": [3]}}, "--space: patience cannot be used here"),
        ({"space": {"epochs": [1]}}, "--space and --train both set epochs"),
        ({"space": {"lr": [0.1, -1]}}, "--lr -1: expected more than 0"),
        ({"space": {"lr": ["high"]}}, "lr 'high': expected find or a number"),
        ({"space": {"drop_path": {"low": 0, "high": 0.3, "log": True}}}, "expected low above 0, which a search by"),
        ({"space": {"lr": {"low": 0.1, "high": 1, "log": "maybe"}}}, "expected log: true or false"),
        ({"space": {"layer_scale": {"low": 0.1, "high": float("inf")}}}, "expected numbers, low below high"),
        ({"train": {"size": "big"}}, "size 'big': expected a whole number"),
        ({"train": {"batch_size": 0}}, "--batch-size 0: expected 1 or more"),
        ({"train": {"teacher": "run"}}, "--train: teacher cannot be used here"),
        ({"budget": "soon"}, "--budget soon"),
        ({"storage": "nonsense://x"}, "--storage cannot be opened"),
    ],
)
def test_impossible_searches_are_refused_before_any_training(begin: Callable, changes: dict, message: str) -> None:
    table, options = begin("refused", **changes)
    with pytest.raises(UserError, match=message):
        tune(table, options)
    assert not (options.out / "tune.yaml").exists()


def test_the_default_space_fits_the_modality() -> None:
    image = default_space(TrainOptions(table=Path("t.csv"), size=384))
    assert image["size"] == [192, 384]
    assert defaults_within(image) == {"lr": 5e-4, "pool": "mean_topk", "augment": True}
    assert "size" not in default_space(TrainOptions(table=Path("t.csv"), model="seqnorm_vit3d_nano"))
    assert "pool" not in default_space(TrainOptions(table=Path("t.csv"), model="seqnorm_bag_nano"))


def test_wide_ranges_are_searched_by_factors() -> None:
    trial = optuna.create_study().ask()
    chosen = suggest(
        trial,
        {"lr": {"low": 1e-4, "high": 1e-2}, "drop_path": {"low": 0.0, "high": 0.3}, "epochs": {"low": 5, "high": 9}},
    )
    kinds = trial.distributions
    assert (kinds["lr"].log, kinds["drop_path"].log, kinds["epochs"].log) == (True, False, False)
    assert isinstance(chosen["epochs"], int)


def test_values_of_options_are_drawn_in_order() -> None:
    trials = pd.DataFrame(
        {"trial": [0, 1, 2], "auroc": [0.7, 0.8, np.nan], "size": [512, 256, 64], "lr": [1e-4, 1e-2, 1.0]}
    )
    text = svg(scores_by_option(trials, "size"), "size")
    assert text.index(">256<") < text.index(">512<")
    assert ">64<" not in text
    assert "10" in svg(scores_by_option(trials, "lr"), "lr")


def test_shared_options_are_checked_for_the_task_that_is_searched(begin: Callable) -> None:
    path, options = begin(task="survival", label="days", event="died")
    options.train["loss"] = "cox"
    assert set(tune_module._check(path, options)) == set(SPACE)
    options.task, options.event = None, None
    with pytest.raises(UserError, match="--loss cox is for --task survival"):
        tune_module._check(path, options)
    del options.train["loss"]
