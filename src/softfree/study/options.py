"""Options of a study."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softfree.core.options import Target


@dataclass(kw_only=True)
class StudyTableOptions:
    """Table.

    Attributes:
        label: Column with the class of each image, or with its number or time (--task).
        event: Column of --task survival with 1 for rows whose --label is the time of the event, and 0 for those whose
            observation ended then without it.
        labels: Several 0/1 columns instead, one per finding (empty cell = unknown), e.g. '[effusion, nodule]'.
        positive: Positive class of a two-class task; default: the last in alphabetical order.
        task: 'ordinal' if the classes of --label have an order, such as grades, 'regression' if it holds numbers,
            'survival' if it holds times to an event (--event); default: classes without an order, or findings.
        classes_in_order: All classes of an ordinal task from the lowest to the highest, e.g. '[none, mild, severe]';
            default: whole numbers by their value.
        variables: Columns with clinical variables that the model takes beside the images, e.g. '[age, sex]': numbers,
            or categories; an empty cell is unknown.
        categorical: Those of them whose numbers are categories, e.g. '[scanner]'.
        targets: YAML file of several targets of one model, each with name, kind (classes, findings, ordinal, regression
            or survival), its columns, and weight; instead of the options above.
        image_root: Folder that relative paths start from and that must contain all files; default: the table's folder.
        num_workers: Number of processes that read images.
        progress: Show progress bars.
    """

    label: str = "label"
    event: str | None = None
    labels: list[str] | None = None
    positive: str | None = None
    task: Target | None = None
    classes_in_order: list[str] | None = None
    variables: list[str] | None = None
    categorical: list[str] | None = None
    targets: Path | None = None
    image_root: Path | None = None
    num_workers: int = 0
    progress: bool = True


@dataclass(kw_only=True)
class AutoOptions(StudyTableOptions):
    """Study.

    Attributes:
        out: Folder of the study. The same command again goes on where it was.
        folds: Number of folds that patients are drawn into; a column fold of the table is used instead.
        folds_by: Column to leave out by its values, such as site.
        repeats: Number of times that folds are drawn.
        members: Number of trainings for each fold, each with another seed.
        ignore_split: Use all rows, whatever the table's column split says; otherwise its test rows are kept apart for
            the final ensemble.
        seed: Seed of the folds and of the first training of each fold.
        budget: Time that the study may take on this machine, such as 90m, 2h or 1d; default: no limit.
        train: Options of softfree train to use instead of planned ones, e.g. '{epochs: 50}'.
        pretrain: Pretrain each training on its own images without labels first, with these options of softfree
            pretrain, e.g. '{epochs: 200}'; default: start from random weights.
        dry_run: Only write the plan.
    """

    out: Path = Path("study")
    folds: int = 5
    folds_by: str | None = None
    repeats: int = 1
    members: int = 1
    ignore_split: bool = False
    seed: int = 0
    budget: str | None = None
    train: dict[str, Any] = field(default_factory=dict)
    pretrain: dict[str, Any] = field(default_factory=dict)
    dry_run: bool = False


@dataclass(kw_only=True)
class LearningCurveOptions(StudyTableOptions):
    """Learning curve.

    Attributes:
        out: Folder of the learning curve. The same command again goes on where it was.
        folds: Number of folds that patients are drawn into; a column fold of the table is used instead. Each is held
            out once, and is a draw of the training patients.
        repeats: Number of times that folds are drawn.
        ignore_split: Use all rows, whatever the table's column split says; otherwise its test rows are left out.
        fractions: Shares of the training patients to train on.
        equal_steps: Train smaller parts for more epochs, so that all trainings take about as many steps; otherwise all
            take the same number of epochs.
        seed: Seed of the folds, of the choice of patients and of the trainings.
        train: Options of softfree train, e.g. '{size: 256, epochs: 50}'.
        pretrain: Pretrain on all training images of each draw without labels first, with these options of softfree
            pretrain, e.g. '{epochs: 200}': how many labels are enough if images are many; default: start from random
            weights.
    """

    out: Path = Path("curve")
    folds: int = 5
    repeats: int = 1
    ignore_split: bool = False
    fractions: list[float] = field(default_factory=lambda: [0.125, 0.25, 0.5, 1.0])
    equal_steps: bool = True
    seed: int = 0
    train: dict[str, Any] = field(default_factory=dict)
    pretrain: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class TuneOptions(StudyTableOptions):
    """Search for options.

    Attributes:
        out: Folder of the search. The same command again goes on where it was.
        folds: Number of folds that each trial is trained and evaluated on; 1 for the validation rows of one split.
        seed: Seed of the split, of the trainings and of the search.
        trials: Number of trials, with those of earlier runs of the command.
        budget: Time after which no trial begins, such as 90m, 2h or 1d; default: no limit.
        train: Options of softfree train that all trials share, e.g. '{size: 256, epochs: 50}'.
        space: Options to search, each a list of values or a range, e.g. '{lr: {low: 1.0e-4, high: 1.0e-2}, pool: [avg,
            topk]}'; default: lr, size, pool and augment, except those that train sets.
        storage: Address of an Optuna storage that several machines share; default: a file in out.
    """

    out: Path = Path("tuned")
    folds: int = 1
    seed: int = 0
    trials: int = 20
    budget: str | None = None
    train: dict[str, Any] = field(default_factory=dict)
    space: dict[str, Any] = field(default_factory=dict)
    storage: str | None = None
