"""A search for options: trials that are trained and compared on validation rows, by Optuna."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import yaml
from lightning.pytorch.callbacks import Callback

from softfree.core.options import TrainOptions
from softfree.core.progress import console
from softfree.data.folds import Folds, assign_folds, write_folds
from softfree.data.labels import label_options
from softfree.data.table import Table, read_table
from softfree.evaluation.comparison import TITLES
from softfree.evaluation.metrics import lower_is_better
from softfree.inference.run_directory import RunDirectory
from softfree.study.options import TuneOptions
from softfree.study.plan import parse_duration
from softfree.study.recipe import check_begun, check_names, check_recipe, refuse_other_content
from softfree.study.scores import held_out, study_metric, targets_setting
from softfree.study.space import check_space, default_space, defaults_within, ends, suggest
from softfree.study.tune_report import TuningResult, not_repeated, options_in_words, result_of, write_result
from softfree.training.callbacks import epoch_score
from softfree.training.checkpoints import folder_lock
from softfree.training.configuration import check_options
from softfree.training.loop import resume, train
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import say, write_atomically

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial

SETTINGS = "tune.yaml"
UNDECIDED = 5  # trials before any is pruned
MAX_FAILURES = 3  # if no trial has succeeded


def tune(path: Path, options: TuneOptions) -> TuningResult:
    """Search for options of ``softfree train`` by their score on validation rows; test rows are never looked at.

    The score is the AUROC, of a regression the mean absolute error, of survival the C-index, of several targets the
    mean of their scores, by which training compares its epochs.

    A search that was interrupted goes on where it was.

    Args:
        path: CSV or Parquet table, or a folder with one subfolder per class.
        options: All settings.

    Raises:
        UserError: Anything that the user can fix; finished trials are kept.
        ModuleNotFoundError: Optuna is not installed.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    deadline = math.inf if options.budget is None else time.monotonic() + parse_duration(options.budget)
    space = _check(path, options)
    refuse_other_content(options.out, SETTINGS)
    table, folds = _rows(path, options)
    say(path, table.sentences)
    settings = {
        "table_sha256": table.digest,
        "folds": folds.made,
        "seed": options.seed,
        "train": dict(options.train),
        "space": space,
        **targets_setting(options),
    }
    with folder_lock(options.out, "searching for options"):
        check_begun(options.out / SETTINGS, settings)
        study = _open(options, settings)
        write_atomically(options.out / SETTINGS, yaml.safe_dump(settings, sort_keys=False))
        write_folds(options.out / "folds.json", table, folds)
        if options.storage is None:
            _retry_interrupted(study)
        if not study.trials:
            study.enqueue_trial(defaults_within(space))
        failures = 0
        while _begun(study) < options.trials and time.monotonic() < deadline:
            error = _run_trial(study, space, path, options, len(folds.numbers) * len(folds.names))
            write_result(result_of(study, options))
            failures += error is not None
            if error is not None and failures >= MAX_FAILURES and not _completed(study):
                raise error
        shutil.rmtree(options.out / "cache", ignore_errors=True)
        result = result_of(study, options)
        write_result(result)
    if result.best is None:
        raise UserError("no trial was completed; allow more --trials or a larger --budget")
    return result


def _check(path: Path, options: TuneOptions) -> dict[str, Any]:
    """Check recipe and space before anything is read; return the space."""
    if options.trials < 1 or options.folds < 1:
        name = "trials" if options.trials < 1 else "folds"
        raise UserError(f"--{name} {getattr(options, name)}: expected 1 or more")
    check_recipe(options.train, "tune")
    base = {"table": path, **label_options(options), **options.train}
    searched = dict(options.space) or default_space(TrainOptions(**base))
    space = {name: values for name, values in searched.items() if options.space or name not in options.train}
    check_space(space)
    check_names(dict.fromkeys(space, True), "tune", "--space")
    if twice := sorted(space.keys() & options.train.keys()):
        raise UserError(f"--space and --train both set {twice[0]}; name it once")
    for name, values in space.items():
        for value in ends(values):
            check_options(TrainOptions(**(base | {name: value})))
    return space


def _rows(path: Path, options: TuneOptions) -> tuple[Table, Folds]:
    """Read the table and choose the rows that trials are evaluated on; its test rows are in no fold."""
    held_out = (0.0, 1.0) if options.folds > 1 else (0.2, 0.2)  # as softfree auto and softfree train draw them
    table = read_table(
        path,
        **label_options(options),
        image_root=options.image_root,
        seed=options.seed,
        val_fraction=held_out[0],
        test_fraction=held_out[1],
    )
    if options.folds > 1:
        return table, assign_folds(table, options.folds, seed=options.seed)
    split = table.frame["split"].to_numpy()
    for name in ("train", "val"):
        if not (split == name).any():
            raise UserError(f"{path} has no row in split {name}; mark some, or use --folds")
    numbers = np.select([split == "val", split == "train"], [0, 1], -1)
    return table, Folds(("validation", "training"), numbers[None], table.split_made or "the table's split")


def _open(options: TuneOptions, settings: Mapping[str, Any]) -> Study:
    """Open the search in its storage; machines with the same settings share it."""
    import optuna

    key = blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=6).hexdigest()
    local = f"sqlite:///{(options.out / 'study.db').resolve()}"
    try:
        study = optuna.create_study(
            storage=options.storage or local,
            study_name=f"softfree {key}",
            direction="minimize" if lower_is_better(study_metric(options)) else "maximize",
            load_if_exists=True,
        )
    except Exception as error:  # of any database
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--storage cannot be opened ({reason}); expected an address such as sqlite:///study.db"
        ) from None
    study.sampler = optuna.samplers.TPESampler(seed=options.seed + len(study.trials))
    epochs = int(options.train.get("epochs", TrainOptions.epochs))
    study.pruner = optuna.pruners.MedianPruner(UNDECIDED, n_warmup_steps=epochs // 4)
    return study


def _retry_interrupted(study: Study) -> None:
    """Give up the trials of a process that was killed, and begin them again: their training is resumed."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs={"again": trial.number})


def _begun(study: Study) -> int:
    """Count the trials, an interrupted one and its repetition as one."""
    from optuna.trial import TrialState

    return sum(trial.state != TrialState.WAITING for trial in not_repeated(study))


def _completed(study: Study) -> bool:
    from optuna.trial import TrialState

    return bool(study.get_trials(states=(TrialState.COMPLETE,)))


def _run_trial(
    study: Study, space: Mapping[str, Any], path: Path, options: TuneOptions, folds: int
) -> UserError | None:
    """Train and evaluate one trial; return why it failed."""
    from optuna import TrialPruned
    from optuna.trial import TrialState

    trial = study.ask()
    chosen = suggest(trial, space)
    console.print(f"trial {trial.number}: {options_in_words(chosen)}", highlight=False, style="bold")
    folder = options.out / "trials" / blake2b(json.dumps(chosen, sort_keys=True).encode(), digest_size=6).hexdigest()
    try:
        score, low, high = _score(trial, chosen, folder, path, options, folds)
    except TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
        console.print("stopped: worse than the median of the trials so far", highlight=False)
        shutil.rmtree(folder)
        return None
    except UserError as error:
        if str(error).startswith("stopped by Ctrl-C"):
            raise UserError("stopped by Ctrl-C; the same command goes on") from None
        trial.set_user_attr("reason", str(error))
        study.tell(trial, state=TrialState.FAIL)
        console.print(f"failed: {error}", highlight=False, style="yellow", soft_wrap=True)
        shutil.rmtree(folder, ignore_errors=True)
        return error
    trial.set_user_attr("interval", [low, high])
    trial.set_user_attr("folder", folder.name)
    study.tell(trial, score)
    console.print(
        f"{TITLES[study_metric(options)]} {score:.3f}; best {study.best_value:.3f}, of trial {study.best_trial.number}",
        highlight=False,
    )
    _keep_best(study, folder)
    return None


def _score(
    trial: Trial, chosen: Mapping[str, Any], folder: Path, path: Path, options: TuneOptions, folds: int
) -> tuple[float, float, float]:
    """Train on each fold, and return the mean score; of a single one with its interval."""
    scores: list[float] = []
    metric = study_metric(options)
    low = high = math.nan
    count = folds if options.folds > 1 else 1
    for fold in range(1, count + 1):
        run = RunDirectory(folder / f"fold{fold}")
        if not run.is_finished():
            callbacks = [_ReportScore(trial, scores)]
            if run.is_unused():
                train(_train_options(chosen, path, options, fold, run.root), callbacks=callbacks)
            else:
                resume(run.root, path, options.image_root, callbacks=callbacks)
        found = held_out(run, metric)
        if math.isnan(found.value):
            raise UserError(f"the validation {TITLES[metric]} is undefined: {found.reason}")
        scores.append(found.value)
        if count == 1:
            low, high = found.low, found.high
    return float(np.mean(scores)), low, high


def _train_options(chosen: Mapping[str, Any], path: Path, options: TuneOptions, fold: int, out: Path) -> TrainOptions:
    own = {
        **label_options(options),
        "image_root": options.image_root,
        "seed": options.seed,
        "fold_file": options.out / "folds.json",
        "fold": fold,
        "cache": str(options.out / "cache"),
        "num_workers": options.num_workers,
        "progress": options.progress,
        "out": out,
    }
    return TrainOptions(table=path, **(own | dict(options.train) | dict(chosen)))


class _ReportScore(Callback):
    """Report the validation score of each epoch, and stop a trial that is worse than the median of the others.

    Args:
        trial: Of Optuna.
        before: Final scores of the folds before this one.
    """

    def __init__(self, trial: Trial, before: list[float]) -> None:
        self.trial, self.before = trial, list(before)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the mean of this epoch's score and the folds before."""
        from optuna import TrialPruned

        metrics = trainer.callback_metrics
        value = float(metrics["val_mae"]) if "val_mae" in metrics else epoch_score(metrics)
        step = len(self.before) * int(trainer.max_epochs or 0) + trainer.current_epoch
        if math.isnan(value):
            return
        self.trial.report(float(np.mean([*self.before, value])), step)
        if self.trial.should_prune():
            raise TrialPruned


def _keep_best(study: Study, folder: Path) -> None:
    """Delete the runs of all trials but the best, which may be used."""
    kept = study.best_trial.user_attrs.get("folder")
    for other in folder.parent.iterdir():
        if other.name != kept:
            shutil.rmtree(other, ignore_errors=True)
