"""Baseline of a study: a logistic regression on a small copy of each sample.

A transformer that does not beat it has not learned from fine detail, or there is none to learn from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from softfree.core.options import TrainOptions
from softfree.data.modalities.base import Preprocessing
from softfree.data.modalities.image import ImagePreprocessing
from softfree.data.modalities.registry import modality_of
from softfree.data.table import Table
from softfree.evaluation.metric_specs import quantities
from softfree.evaluation.scores import Scores
from softfree.training.configuration import read_training_table
from softfree.training.modality import create_preprocessing
from softfree_runtime.core.errors import ReadError, UserError

SIDE = 32  # of the small copy of an image or slide, pixels
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # C of the regression
STRENGTH = "onevsrestclassifier__estimator__C"
INNER_FOLDS = 5  # at most, of the training samples, which choose C where validation is the held-out fold


def name_of(recipe: Mapping[str, Any]) -> str:
    """Return the name of the baseline of a recipe, the training options without the table."""
    return name_of_options(TrainOptions(table=Path(), **recipe))


def name_of_options(options: TrainOptions) -> str:
    """Return the name of the baseline of a training."""
    return modality_of(options).small_copy or f"{SIDE} x {SIDE} pixels"


def fit_baseline(options: TrainOptions) -> tuple[Scores, dict[str, Any]]:
    """Fit on the training samples of a recipe, choose its strength on validation, and give its scores on test.

    If the recipe holds out a fold, the strength is chosen by cross-validation of the training samples, by patient, and
    the scores are of the fold.

    Samples go through the recipe's own preprocessing, reduced as :func:`name_of` says, without augmentation.

    Returns:
        Scores of the samples that can be read, and the cost, as ``cost.json`` has it.

    Raises:
        UserError: Findings with unknowns, or a split without a readable sample.
    """
    began, worked = time.monotonic(), time.process_time()
    table = read_training_table(options)
    if table.task.kind == "multilabel":
        raise UserError("it is for classes that exclude each other")
    preprocessing = _preprocessing(options, table)
    names = ("train", "val") if options.fold is not None else ("train", "val", "test")
    splits = {split: _reduced(table.where(split), preprocessing) for split in names}
    features, targets, patients = splits["train"]
    if options.fold is not None:
        strength = _strength_by_folds(features, targets, patients)
        best = _pipeline(strength).fit(features, targets)
    else:
        fitted = [_pipeline(strength).fit(features, targets) for strength in STRENGTHS]
        best = max(fitted, key=lambda model: _auroc(_scores(model, table, *splits["val"])))
    cost = {
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - worked,
        "peak_bytes": math.nan,
        "multiply_adds": len(table.task.classes) * features.shape[1],
        "resumed": False,
    }
    return _scores(best, table, *splits[names[-1]]), cost


def _strength_by_folds(features: np.ndarray, targets: np.ndarray, patients: np.ndarray) -> float:
    """Return the C with the highest mean AUROC over folds of the training samples."""
    fewest = min(len(np.unique(patients[targets == label])) for label in np.unique(targets))
    folds = StratifiedGroupKFold(max(2, min(INNER_FOLDS, fewest)), shuffle=True, random_state=0)
    search = GridSearchCV(_pipeline(1.0), {STRENGTH: STRENGTHS}, scoring="roc_auc_ovr", cv=folds, refit=False)
    return float(search.fit(features, targets, groups=patients).best_params_[STRENGTH])


def _pipeline(strength: float) -> Pipeline:
    regression = OneVsRestClassifier(LogisticRegression(C=strength, max_iter=2000))
    return make_pipeline(StandardScaler(), regression)


def _preprocessing(options: TrainOptions, table: Table) -> Preprocessing:
    if modality_of(options).name == "image":
        return ImagePreprocessing.create(options.preset, SIDE, options.resize_mode, options.channels)
    return create_preprocessing(options, table.sources)


def _reduced(table: Table, preprocessing: Preprocessing) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features (n, K), targets (n,) and patients (n,) of the readable samples."""
    readable = []
    rows = zip(table.sources, table.frames, table.targets, table.frame["patient"], strict=True)
    for source, frame, target, patient in rows:
        try:
            sample = torch.from_numpy(preprocessing.load(source, frame))
            readable.append((_reduce(sample, preprocessing), target, patient))
        except ReadError:
            continue
    if not readable:
        raise UserError("no sample of a split can be read; see: softfree check")
    features, targets, patients = zip(*readable, strict=True)
    return np.stack(features), np.array(targets), np.array(patients)


def _reduce(sample: torch.Tensor, preprocessing: Preprocessing) -> np.ndarray:
    if sample.ndim != 3:
        copy = preprocessing.small_copy(sample)
        assert copy is not None
        return copy
    return (sample if sample.shape[1:] == (SIDE, SIDE) else F.adaptive_avg_pool2d(sample, SIDE)).flatten().numpy()


def _scores(model: Pipeline, table: Table, pixels: np.ndarray, targets: np.ndarray, patients: np.ndarray) -> Scores:
    return Scores(table.task, model.predict_proba(pixels), targets, patients)


def _auroc(scores: Scores) -> float:
    value = quantities(scores)["auroc"].value
    return -1.0 if math.isnan(value) else value
