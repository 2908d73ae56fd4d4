"""Simple models on frozen features; how strongly they are regularized is chosen within the training rows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from softfree_runtime.core.task import Task

STRENGTHS = tuple(10.0**power for power in range(-5, 2))  # C of logistic regression, on standardized features
NEIGHBORS = (1, 2, 5, 10, 20, 50)
INNER_FOLDS = 3
_LEAST = 1e-6  # probability of a class that was not seen
_STEPS = 2000

Method = Literal["logistic", "knn"]


@dataclass(frozen=True)
class Training:
    """Rows that a model is fitted to.

    Attributes:
        features: (n, D).
        targets: As :class:`softfree_runtime.core.task.Task` says.
        patients: Patient numbers (n,), which decide what is held out to choose the regularization.
    """

    features: np.ndarray
    targets: np.ndarray
    patients: np.ndarray


def predict_held_out(
    training: Training, held_out: np.ndarray, task: Task, method: Method, seed: int
) -> tuple[np.ndarray, list[float]]:
    """Fit to the rows of other folds and predict held-out ones.

    Args:
        training: Rows of the other folds.
        held_out: Features (m, D).
        task: Classes, findings or a number.
        method: Which model.
        seed: Of the inner folds.

    Returns:
        Probabilities (m, K), or of a number (m, 1); and what was chosen: C, or the number of neighbors, for each model.
    """
    if task.numeric:
        search = _fitted(training, task, method, seed)
        return search.predict(held_out)[:, None], [_chosen(search)]
    if task.exclusive:
        search = _fitted(training, task, method, seed)
        return _probabilities(search, held_out, len(task.classes)), [_chosen(search)]
    columns, chosen = [], []
    for k in range(len(task.classes)):
        known = ~np.isnan(training.targets[:, k])
        present = training.targets[known, k].astype(np.int64)
        if len(np.unique(present)) < 2:
            columns.append(np.full(len(held_out), (present.sum() + 0.5) / (len(present) + 1)))
            continue
        own = Training(training.features[known], present, training.patients[known])
        search = _fitted(own, Task("binary", ("absent", "present")), method, seed)
        columns.append(_probabilities(search, held_out, 2)[:, 1])
        chosen.append(_chosen(search))
    return np.stack(columns, axis=1), chosen


def _fitted(training: Training, task: Task, method: Method, seed: int) -> GridSearchCV:
    """Fit with the regularization that predicts held-out patients among the training rows best."""
    splits = _inner_splits(training, task, seed)
    smallest = min((len(rows) for rows, _ in splits), default=len(training.targets))
    model, grid = _model(task, method, smallest)
    if not splits:  # too few patients to choose
        middle: dict[str, Sequence[float]] = {name: [values[len(values) // 2]] for name, values in grid.items()}
        everything = np.arange(len(training.targets))
        splits, grid = [(everything, everything)], middle
    scoring = "neg_mean_absolute_error" if task.numeric else _log_likelihood
    search = GridSearchCV(model, grid, cv=splits, scoring=scoring)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # nearly converged is enough
        search.fit(training.features, training.targets)
    return search


def _model(task: Task, method: Method, smallest: int) -> tuple[Any, dict[str, Sequence[float]]]:
    if method == "knn":
        counts = [count for count in NEIGHBORS if count <= smallest]
        kind = KNeighborsRegressor if task.numeric else KNeighborsClassifier
        return kind(metric="cosine"), {"n_neighbors": counts}
    if task.numeric:
        return make_pipeline(StandardScaler(), Ridge()), {"ridge__alpha": [1 / strength for strength in STRENGTHS]}
    model = LogisticRegression(max_iter=_STEPS, tol=1e-3)
    return make_pipeline(StandardScaler(), model), {"logisticregression__C": STRENGTHS}


def _inner_splits(training: Training, task: Task, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Divide the patients of the training rows; empty if there are fewer than two."""
    count = min(INNER_FOLDS, len(np.unique(training.patients)))
    if count < 2:
        return []
    folder = GroupKFold(count) if task.numeric else StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class of few rows is missing in a part: scored all the same
        splits = list(folder.split(training.features, training.targets, training.patients))
    return [(rows, held) for rows, held in splits if task.numeric or len(np.unique(training.targets[rows])) > 1]


def _log_likelihood(model: Any, features: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean logarithm of the probability of the true class, for classes that the model may not know."""
    probabilities = _probabilities(model, features, int(targets.max()) + 1)
    return float(np.log(np.maximum(probabilities[np.arange(len(targets)), targets], _LEAST)).mean())


def _probabilities(model: Any, features: np.ndarray, classes: int) -> np.ndarray:
    """Return the probabilities (n, K) of all classes; 0 for those that were not among the training rows."""
    known = np.asarray(model.classes_)
    wide = np.zeros((len(features), max(classes, int(known.max()) + 1)))
    wide[:, known] = model.predict_proba(features)
    return wide


def _chosen(search: GridSearchCV) -> float:
    (value,) = search.best_params_.values()
    return float(value)
