"""What a picture of 32 x 32 pixels already tells: a logistic regression beside the transformers of a study.

A transformer that does not beat it has not learnt from the detail that it was given, or there is none to learn from.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from softfree.data.readers import read_picture
from softfree.data.table import Table
from softfree.data.transforms import Preprocessing
from softfree.errors import ReadError, UserError
from softfree.evaluation.quantities import quantities
from softfree.evaluation.scores import Scores
from softfree.options import TrainOptions
from softfree.training.configuration import read_training_table

NAME = "32 x 32 pixels"
SIDE = 32
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # C of the regression; the best on validation is taken


def fit_baseline(options: TrainOptions) -> tuple[Scores, dict[str, Any]]:
    """Fit on the training pictures of a recipe, choose its strength on validation, and give its scores on test.

    Pictures go through the recipe's own preprocessing, at 32 x 32 pixels, without augmentation.

    Returns:
        Scores of the test pictures that can be read, and the cost, as ``cost.json`` has it.

    Raises:
        UserError: findings with unknowns, or a split without a readable picture.
    """
    began, worked = time.monotonic(), time.process_time()
    table = read_training_table(options)
    if table.task.kind == "multilabel":
        raise UserError("it is for classes that exclude each other")
    parts = {split: _pixels(table.where(split), options) for split in ("train", "val", "test")}
    fitted = [_pipeline(strength).fit(*parts["train"][:2]) for strength in STRENGTHS]
    best = max(fitted, key=lambda model: _auroc(_scores(model, table, *parts["val"])))
    cost = {
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - worked,
        "peak_bytes": math.nan,
        "multiply_adds": len(table.task.classes) * parts["train"][0].shape[1],
        "resumed": False,
    }
    return _scores(best, table, *parts["test"]), cost


def _pipeline(strength: float) -> Pipeline:
    regression = OneVsRestClassifier(LogisticRegression(C=strength, max_iter=2000))
    return make_pipeline(StandardScaler(), regression)


def _pixels(part: Table, options: TrainOptions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels (n, C 32 32), targets (n,) and patients (n,) of the readable pictures."""
    steps = Preprocessing.create(options.preset, SIDE, options.fit, options.channels)
    found = []
    for file, target, patient in zip(part.frame["file"], part.targets, part.frame["patient"], strict=True):
        try:
            found.append((steps(read_picture(file)).ravel(), target, patient))
        except ReadError:
            continue
    if not found:
        raise UserError("no picture of a split can be read; see: softfree check")
    pixels, targets, patients = zip(*found, strict=True)
    return np.stack(pixels), np.array(targets), np.array(patients)


def _scores(model: Pipeline, table: Table, pixels: np.ndarray, targets: np.ndarray, patients: np.ndarray) -> Scores:
    return Scores(table.task, model.predict_proba(pixels), targets, patients)


def _auroc(scores: Scores) -> float:
    value = quantities(scores)["auroc"].value
    return -1.0 if math.isnan(value) else value
