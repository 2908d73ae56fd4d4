"""``softfree probe FEATURES TABLE``: how well simple models on frozen features predict, cross-validated by patient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from softfree.data.folds import Folds, assign_folds
from softfree.data.modalities.registry import MODALITIES
from softfree.data.samples import as_samples
from softfree.data.table import Table, read_table
from softfree.embeddings.feature_folder import FeatureFolder
from softfree.embeddings.options import ProbeOptions
from softfree.embeddings.probe_models import Training, predict_held_out
from softfree.embeddings.similar import sample_key
from softfree.evaluation.calibration import choose_thresholds
from softfree.evaluation.metrics import Metric, measure
from softfree.evaluation.scores import Scores
from softfree.evaluation.values import Values
from softfree.inference.run import Run
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import say
from softfree_runtime.sources.sample_source import Case


@dataclass(frozen=True)
class Probe:
    """Result of a probe.

    Attributes:
        table: The rows that were predicted.
        folds: The fold in which each was held out.
        scores: Their predictions.
        metrics: Of these.
        chosen: Regularization of each model: C, or the number of neighbors.
        thresholds: Thresholds that suit all rows.
        notes: What was left out, in sentences.
    """

    table: Table
    folds: Folds
    scores: Scores | Values
    metrics: dict[str, Metric]
    chosen: list[float]
    thresholds: Mapping[str, float] | None
    notes: tuple[str, ...]


def probe(folder: str | Path, path: str | Path, options: ProbeOptions) -> Probe:
    """Cross-validate a simple model on features, and write predictions, metrics and report to ``options.out``.

    Args:
        folder: What ``softfree features`` has written.
        path: Table with the files that it was given, their labels and ``patient_id``.
        options: All settings.

    Raises:
        UserError: Features and table do not belong together, or too few patients of a class.
    """
    from softfree.embeddings.probe_output import write_probe

    features = FeatureFolder.open(folder)
    table, numbers, notes = _table_with_features(features, Path(path), options)
    folds = assign_folds(table, options.folds, by=options.folds_by, seed=options.seed, use_test=True)
    matrix = _matrix(features, numbers)
    predicted, chosen = _held_out(matrix, table, folds.numbers[0], options)
    scores, thresholds = _scores(predicted, table, folds.numbers[0])
    metrics = measure(scores, thresholds, seed=options.seed, num_bootstrap=options.num_bootstrap)
    result = Probe(table, folds, scores, metrics, chosen, thresholds, notes)
    write_probe(options.out, result, options, features)
    return result


def _table_with_features(
    features: FeatureFolder, path: Path, options: ProbeOptions
) -> tuple[Table, np.ndarray, tuple[str, ...]]:
    """Read the rows that have features; return them, the numbers of their inputs, and what was left out."""
    table = read_table(
        path,
        label=options.label,
        labels=options.labels,
        positive=options.positive,
        task=options.task,
        classes_in_order=options.classes_in_order,
        image_root=options.image_root,
        val_fraction=0.0,  # no split is drawn: all rows are drawn into folds
        test_fraction=1.0,
        strict_patients=False,
    )
    known = features.inputs()
    if known and isinstance(known[0][0], Case):
        table = as_samples(table, MODALITIES["case"])
    say(path, table.sentences)
    numbers = {sample_key(source, frame): number for number, (source, frame) in enumerate(known)}
    readable = _readable(features, len(known))
    found = np.array([numbers.get(sample_key(*one), -1) for one in zip(table.sources, table.frames, strict=True)])
    if (found < 0).all():
        raise UserError(
            f"{features.root} has features of none of the {len(found)} images of {path}; expected those that softfree"
            " features was given"
        )
    notes = []
    usable = (found >= 0) & readable[found]
    for count, why in (((found < 0).sum(), "have no features"), (((found >= 0) & ~usable).sum(), "could not be read")):
        if count:
            notes.append(f"{count} of {len(found)} images {why} and are left out.")
    if not usable.any():
        raise UserError(f"none of the images of {path} could be read; the reasons are in {features.results}")
    table, found = table.take(np.flatnonzero(usable)), found[usable]
    _refuse_shared_images(path, table, found)
    if options.encoder is not None:
        table, found, seen = _without_seen(Run.load(options.encoder), table, found)
        if seen:
            notes.append(f"{seen} images are left out: {options.encoder.name} was trained on their files or patients.")
    say(path, [note.rstrip(".") for note in notes])
    return table, found, tuple(notes)


def _refuse_shared_images(path: Path, table: Table, numbers: np.ndarray) -> None:
    """Refuse an image that two patients have, under two names such as links: it could be in two folds."""
    frame = table.frame.assign(number=numbers)
    shared = frame[frame.groupby("number")["patient"].transform("nunique") > 1]
    if len(shared):
        rows = ", ".join(map(str, shared["row"][shared["number"] == shared["number"].iloc[0]][:5]))
        count = shared["number"].nunique() - 1
        others = f" (and {count} more such image{'s' if count > 1 else ''})" if count else ""
        raise UserError(
            f"{path}: rows {rows} (counted from 0) name the same image and have different patients{others}, so that it"
            " could be in two folds; give them one patient_id, or delete all but one"
        )


def _without_seen(run: Run, table: Table, numbers: np.ndarray) -> tuple[Table, np.ndarray, int]:
    """Leave out rows that an encoder was trained on: of its own table those in train and val, of others those seen."""
    from softfree.data.seen_rows import read_seen_rows, reads_series

    seen = read_seen_rows(run.directory.seen)
    if seen is None:
        raise UserError(f"--encoder {run.folder} does not say what it was trained on; leave it out")
    kept = np.flatnonzero(~seen.rows(table.frame, whole_series=reads_series(run.preprocessing)))
    if not len(kept):
        raise UserError(
            f"all {len(table.frame)} images are among those that {run.folder} was trained on: their scores would say"
            " nothing about new patients"
        )
    return table.take(kept), numbers[kept], len(table.frame) - len(kept)


def _readable(features: FeatureFolder, count: int) -> np.ndarray:
    readable = np.zeros(count + 1, bool)  # the last is for -1
    for _, rows in features.batches():
        readable[rows["input"].to_numpy()] = True
    return readable


def _matrix(features: FeatureFolder, numbers: np.ndarray) -> np.ndarray:
    """Return the features (n, D) of inputs by their numbers, of which several may be equal."""
    unique, positions = np.unique(numbers, return_inverse=True)
    where = {int(number): position for position, number in enumerate(unique)}
    matrix = np.full((len(unique), features.width), np.nan, np.float32)
    for vectors, rows in features.batches():
        for vector, number in zip(vectors, rows["input"].to_pylist(), strict=True):
            if number in where:
                matrix[where[number]] = vector
    return matrix[positions]


def _held_out(
    matrix: np.ndarray, table: Table, folds: np.ndarray, options: ProbeOptions
) -> tuple[np.ndarray, list[float]]:
    """Predict each row by a model of the other folds."""
    patients = table.frame["patient"].to_numpy()
    predicted: np.ndarray | None = None
    chosen: list[float] = []
    for fold in np.unique(folds):
        held = folds == fold
        training = Training(matrix[~held], table.targets[~held], patients[~held])
        own, values = predict_held_out(training, matrix[held], table.task, options.method, options.seed)
        predicted = np.full((len(folds), own.shape[1]), np.nan) if predicted is None else predicted
        predicted[held] = own
        chosen += values
    assert predicted is not None
    return predicted, chosen


def _scores(
    predicted: np.ndarray, table: Table, folds: np.ndarray
) -> tuple[Scores | Values, Mapping[str, float] | None]:
    """Return the scores; the threshold of a row is chosen on the other folds."""
    patients = table.frame["patient"].to_numpy()
    if table.task.numeric:
        return Values(table.task, predicted[:, 0], table.targets, patients), None
    scores = Scores(table.task, np.clip(predicted, 0, 1), table.targets, patients)
    own = {table.task.classes[k]: np.empty(len(scores)) for k in table.task.scored}
    for fold in np.unique(folds):
        for name, value in choose_thresholds(scores.subset(folds != fold)).items():
            own[name][folds == fold] = value
    return replace(scores, thresholds=own), choose_thresholds(scores)
