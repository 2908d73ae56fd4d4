"""Any number of runs and studies on the same samples: differences from a reference, with intervals and tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from softfree.evaluation.answers import Answers
from softfree.evaluation.comparison import TITLES, Comparison, Difference, compare
from softfree.evaluation.formatting import strict_json
from softfree.evaluation.metrics import (
    MainMetric,
    Metric,
    all_quantities,
    draws_of_auroc,
    main_metric,
    measure,
)
from softfree.evaluation.paired_tests import FoldTest, corrected_resampled_t, holm
from softfree.inference.run import Run
from softfree.inference.run_directory import RunDirectory
from softfree.reporting.options import CompareOptions
from softfree.reporting.scoring import FOLD, answers_of, logit_columns
from softfree_runtime.core.errors import UserError

AGAIN = "evaluate or train it again"


@dataclass(frozen=True)
class ComparedRun:
    """One of the compared runs.

    Attributes:
        name: Of its folder, or its path where two folders have one name.
        evaluated: What was evaluated, in words, such as ``test split``.
        auroc: On the samples that are compared; of a regression the mean absolute error, of survival the C-index.
        comparison: The difference from the reference; None for the reference itself.
        p_holm: The p value of the difference, corrected for the number of comparisons by Holm; NaN if there is none.
        folds: For two studies with the same folds, the corrected resampled t test; otherwise None.
        cost: Time, memory and work of its training, if they are recorded.
        command: Of its training.
    """

    name: str
    evaluated: str
    auroc: Metric
    comparison: Comparison | None
    p_holm: float
    folds: FoldTest | None
    cost: dict[str, Any]
    command: str

    @property
    def difference(self) -> Difference | None:
        """The difference of AUROC, mean absolute error or C-index from the reference."""
        return None if self.comparison is None else next(iter(self.comparison.differences.values()))


@dataclass(frozen=True)
class RunComparison:
    """Runs that were compared on the same samples.

    Attributes:
        runs: In the order given; the reference has no comparison.
        reference: Name of the reference.
        table: Name of the table.
        n: Number of samples.
        patients: Number of patients.
        margin: Non-inferiority margin, or None.
        notice: A sentence that readers must know first, such as that the images are synthetic.
        notes: What was assumed or left out, and what the numbers are; one sentence each.
        metric: By which the runs are compared: ``auroc``, of a regression ``mae``, of survival ``c_index``.
    """

    runs: tuple[ComparedRun, ...]
    reference: str
    table: str
    n: int
    patients: int
    margin: float | None
    notice: str | None
    notes: tuple[str, ...]
    metric: MainMetric = "auroc"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON; NaN becomes None."""
        return strict_json(asdict(self))


@dataclass(frozen=True)
class _Evaluated:
    """A run with its stored predictions of the evaluated rows, by row."""

    name: str
    run: Run
    split: str
    frame: pd.DataFrame

    @property
    def in_words(self) -> str:
        if FOLD in self.frame:
            return f"cross-validation, {self.frame[FOLD].nunique()} folds"
        return f"{self.split} split" + (f", ensemble of {len(self.run.members)}" if self.run.members else "")


def compare_runs(folders: Sequence[Path], options: CompareOptions) -> RunComparison:
    """Compare runs and studies by their stored predictions, paired by sample and patient.

    Args:
        folders: Run and study directories of one table, at least two.
        options: Reference, rows and margin.

    Raises:
        UserError: Runs of different tables, classes or labels, or that were evaluated on different rows.
    """
    runs, reference = _open(folders, options)
    notes = [note for evaluated in runs if (note := _note_on_patience(evaluated))]
    runs, more = _same_rows(runs, common=options.common_rows)
    notes += more
    scores = [answers_of(evaluated.frame.reset_index(), evaluated.run) for evaluated in runs]
    first = scores[reference]
    main = main_metric(first.task)
    for evaluated, own in zip(runs, scores, strict=True):
        _check_labels(evaluated, own, runs[reference], first)
    bootstrap: dict[str, int] = {"seed": options.seed, "num_bootstrap": options.num_bootstrap}
    draws = [draws_of_auroc(own, **bootstrap) for own in scores]
    comparisons = [
        None
        if number == reference
        else compare(
            own,
            first,
            margin=options.margin,
            names=(runs[number].name, runs[reference].name),
            only=main,
            draws=(draws[number], draws[reference]),
            **bootstrap,  # type: ignore[arg-type]
        )
        for number, own in enumerate(scores)
    ]
    p_values = [math.nan if c is None else c.differences[main].p for c in comparisons]
    tests: list[FoldTest | None] = []
    for number, evaluated in enumerate(runs):
        test, why = (None, None) if number == reference else _fold_test(evaluated, runs[reference])
        tests.append(test)
        notes += [why] if why else []
    notes += _notes_on_statistics(comparisons, tests, options)
    compared = [
        ComparedRun(
            name=evaluated.name,
            evaluated=evaluated.in_words,
            auroc=measure(own, None, only=main, draws=own_draws, **bootstrap)[main],
            comparison=comparison,
            p_holm=p,
            folds=test,
            cost=evaluated.run.directory.read_cost(),
            command=evaluated.run.config.get("command", ""),
        )
        for evaluated, own, own_draws, comparison, p, test in zip(
            runs, scores, draws, comparisons, holm(p_values), tests, strict=True
        )
    ]
    return RunComparison(
        runs=tuple(compared),
        reference=runs[reference].name,
        table=runs[reference].run.table_path.name,
        n=len(first),
        patients=len(np.unique(first.patients)),
        margin=options.margin,
        notice=next((evaluated.run.notice for evaluated in runs if evaluated.run.notice), None),
        notes=tuple(notes),
        metric=main,
    )


def _open(folders: Sequence[Path], options: CompareOptions) -> tuple[list[_Evaluated], int]:
    """Load the runs with their predictions, and find the reference."""
    folders = [Path(folder) for folder in folders]
    reference = folders[0] if options.reference is None else Path(options.reference)
    resolved = [folder.resolve() for folder in folders]
    if reference.resolve() not in resolved:
        folders, resolved = [reference, *folders], [reference.resolve(), *resolved]
    if len(set(resolved)) < len(resolved):
        twice = next(folder for folder, path in zip(folders, resolved, strict=True) if resolved.count(path) > 1)
        raise UserError(f"{twice} is named twice; name each run once")
    if len(folders) < 2:
        raise UserError(f"got only the run {folders[0]}: expected two or more to compare")
    if options.split == "train":
        raise UserError("runs keep no predictions for training rows: compare on the split test or val")
    names = [path.name for path in resolved]
    names = [name if names.count(name) == 1 else str(folder) for name, folder in zip(names, folders, strict=True)]
    runs = [Run.load(folder) for folder in folders]
    number = resolved.index(reference.resolve())
    for name, run in zip(names, runs, strict=True):
        _check_same_task(name, run, names[number], runs[number])
    return [_evaluated(name, run, options.split) for name, run in zip(names, runs, strict=True)], number


def _check_same_task(name: str, run: Run, other_name: str, other: Run) -> None:
    if replace(run.task, cuts=()) != replace(other.task, cuts=()):
        raise UserError(
            f"{name} predicts {_task_in_words(run)}, {other_name} {_task_in_words(other)}; compare runs of one task"
        )
    if run.table_digest is None or run.table_digest != other.table_digest:
        raise UserError(
            f"{name} and {other_name} were trained on different tables, or versions of one ({run.table_path} and"
            f" {other.table_path}), so that their rows cannot be paired; train both on one table"
        )


def _task_in_words(run: Run) -> str:
    return f"{', '.join(run.task.classes)} ({run.task.kind})"


def _evaluated(name: str, run: Run, split: str | None) -> _Evaluated:
    """Read the predictions of a run: of its test rows if there are any, of a study those of its cross-validation."""
    directory = run.directory
    is_test_of_study = bool(run.members) and split == "test"
    path = RunDirectory(directory.test).predictions if is_test_of_study else directory.predictions
    if is_test_of_study and not path.is_file():
        raise UserError(f"{name} has no predictions for test rows: its table has none, or they are still to be"
                        f" evaluated with: softfree evaluate {run.folder} --split test")  # fmt: skip
    if not path.is_file() or not (is_test_of_study or directory.is_unchanged(path)):
        raise UserError(f"{path} is missing or was changed; {AGAIN}")
    needed = {"row", "split", "patient", "status", *logit_columns(run.task)}
    try:
        frame = pd.read_csv(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError):
        raise UserError(f"{path} is damaged; {AGAIN}") from None
    if missing := sorted(needed - set(frame.columns)):
        raise UserError(f"{path} has no column {missing[0]}; {AGAIN}")
    splits = set(frame["split"])
    chosen = split or ("val" if run.members or "test" not in splits else "test")
    if chosen not in splits:
        raise UserError(f"{name} was not evaluated on the split {chosen}: it has predictions for {_listed(splits)}")
    return _Evaluated(name, run, chosen, frame[frame["split"] == chosen].set_index("row").sort_index())


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


def _note_on_patience(evaluated: _Evaluated) -> str | None:
    options = evaluated.run.config["options"]
    if evaluated.run.members or evaluated.split != "val" or options.get("patience") is None:
        return None
    title = TITLES[main_metric(evaluated.run.task)]
    return f"{evaluated.name} kept the epoch that was best on these rows (--patience): its {title} is optimistic."


def _same_rows(runs: list[_Evaluated], *, common: bool) -> tuple[list[_Evaluated], list[str]]:
    """Keep the rows that all runs were evaluated on and could read; say what is left out."""
    shared = set.intersection(*(set(evaluated.frame.index) for evaluated in runs))
    first = runs[0]
    for other in runs[1:]:
        if set(other.frame.index) != set(first.frame.index) and not common:
            both = len(set(first.frame.index) & set(other.frame.index))
            raise UserError(
                f"{first.name} was evaluated on {len(first.frame)} rows ({first.in_words}), {other.name} on"
                f" {len(other.frame)} ({other.in_words}), {both} of them the same: choose a --split, or compare these"
                f" {both} with --common-rows"
            )
    notes = []
    if any(len(evaluated.frame) > len(shared) for evaluated in runs):
        counts = ", ".join(f"{evaluated.name} {len(evaluated.frame)}" for evaluated in runs)
        notes.append(f"Compared on the {len(shared)} rows that all runs were evaluated on ({counts}).")
    readable = set.intersection(*(set(e.frame.index[e.frame["status"] == "ok"]) for e in runs)) & shared
    if unreadable := len(shared) - len(readable):
        notes.append(f"{unreadable} rows that a run could not read are left out of all.")
    if not readable:
        raise UserError("there is no row that all of these runs were evaluated on; compare runs with one split")
    rows = sorted(readable)
    return [replace(evaluated, frame=evaluated.frame.loc[rows]) for evaluated in runs], notes


def _check_labels(evaluated: _Evaluated, scores: Answers, reference: _Evaluated, others: Answers) -> None:
    same = (scores.targets == others.targets) | (np.isnan(scores.targets) & np.isnan(others.targets))
    if count := int((~same).reshape(len(scores), -1).any(axis=1).sum()):
        raise UserError(
            f"{evaluated.name} and {reference.name} were trained on different labels: {count} of {len(scores)} rows"
            " differ; compare runs with the same --label"
        )


def _fold_test(evaluated: _Evaluated, reference: _Evaluated) -> tuple[FoldTest | None, str | None]:
    """Test the difference of two studies over the folds that both have; the reason if that cannot be done."""
    if FOLD not in evaluated.frame or FOLD not in reference.frame:
        return None, None
    own, others = _held_out(evaluated.run), _held_out(reference.run)
    is_same = own.keys() == others.keys() and all(own[key].rows == others[key].rows for key in own)
    if not is_same:
        why = "have different folds: the test over folds is left out"
        return None, f"{evaluated.name} and {reference.name} {why}."
    differences = [own[key].score - others[key].score for key in own]
    if np.isnan(differences).any():
        return None, f"A fold of {evaluated.name} lacks a class or event: the test over folds is left out."
    held = float(np.mean([len(fold.rows) for fold in own.values()]))
    number = len({fold for fold, _ in own})
    return corrected_resampled_t(differences, held, held * (number - 1)), None


@dataclass(frozen=True)
class _HeldOut:
    """The held-out rows of a fold, and the mean of the main metric of its members."""

    rows: frozenset[int]
    score: float


def _held_out(run: Run) -> dict[tuple[int, int], _HeldOut]:
    """Measure each fold of each draw by its own members."""
    members: dict[tuple[int, int], list[Run]] = {}
    for member in run.members:
        options = member.config["options"]
        members.setdefault((int(options["fold"]), int(options["repeat"])), []).append(member)
    folds = {}
    for key, runs in members.items():
        frames = [_evaluated(member.folder.name, member, "val") for member in runs]
        values = [_main_value(answers_of(one.frame.reset_index(), one.run)) for one in frames]
        folds[key] = _HeldOut(frozenset(frames[0].frame.index), float(np.mean(values)))
    return folds


def _main_value(scores: Answers) -> float:
    main = main_metric(scores.task)
    return all_quantities(scores, only=main)[main].value


def _notes_on_statistics(
    comparisons: Sequence[Comparison | None], tests: Sequence[FoldTest | None], options: CompareOptions
) -> list[str]:
    differences = [next(iter(comparison.differences.values())) for comparison in comparisons if comparison]
    notes = [f"Intervals are of 95 %; of the differences: {differences[0].method}."]
    if len(differences) > 1:
        corrected = "p values are corrected for the number of comparisons by Holm's method; intervals"
        notes.append(f"{corrected}{' and non-inferiority' if options.margin else ''} are not.")
    if done := [test for test in tests if test is not None]:
        notes.append(
            "The test over folds is the corrected resampled t test of Nadeau and Bengio over"
            f" {len(done[0].differences)} folds (variance times 1/{len(done[0].differences)} + {done[0].ratio:.2f}): it"
            " counts the chance of training, too, and has little power. The paired difference is about these trained"
            " models on new patients."
        )
    return notes
