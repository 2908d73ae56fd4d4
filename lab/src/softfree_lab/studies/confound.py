"""``softfree-lab study sizes``: whether a classifier has learned the size of the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from softfree.data.dataset import SampleDataset
from softfree.data.modalities.image import resize
from softfree.data.table import Table
from softfree.inference.forward import infer
from softfree.inference.options import InferenceOptions
from softfree.inference.run import Run
from softfree.reporting.scoring import own_table
from softfree_lab.records import markdown_table
from softfree_lab.studies.options import SizeStudyOptions
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.core.outputs import probabilities
from softfree_runtime.readers import read_image
from softfree_runtime.readers.image import DecodedImage

FEATURES = ("width", "height", "aspect ratio", "pixels")


@dataclass(frozen=True)
class SizeStudy:
    """Evidence for and against a model having learned the image size, on the test split of a binary task.

    Attributes:
        rows: One row per feature: AUROC of the feature alone, and Spearman's correlation of the model's probability
            with the feature within each class (no correlation means that the size does not affect the model).
        auroc: AUROC of the model on the original images.
        auroc_equal: AUROC of the model when each image is first cropped to its center square and reduced to one
            common side, so that neither shape nor sharpness reveals the original size.
        side: The common side in pixels: the smallest shorter side of the split.
        n: Number of images.
    """

    rows: pd.DataFrame
    auroc: float
    auroc_equal: float
    side: int
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        return {**{k: v for k, v in self.__dict__.items() if k != "rows"}, "features": self.rows.to_dict("records")}

    def to_markdown(self) -> str:
        """Lay out the features, and the model's AUROC on both kinds of images."""
        rows = self.rows.map(lambda value: value if isinstance(value, str) else f"{value:.2f}")
        return (
            f"{self.n} test images\n\n{markdown_table(rows.columns, rows.to_numpy().tolist())}\n"
            f"The model's AUROC: {self.auroc:.3f} on the original images, {self.auroc_equal:.3f} on center squares "
            f"of {self.side} x {self.side} pixels.\n"
        )


def study_sizes(options: SizeStudyOptions, folder: str | Path) -> SizeStudy:
    """Compare a run's predictions on the test images as they are and on crops of equal size.

    Raises:
        UserError: The run's task is not binary, its table is missing, or a test image cannot be read.
    """
    run = Run.load(folder)
    if run.task.kind != "binary":
        raise UserError(f"a study of sizes needs a binary task, but this run's task is {run.task.kind}")
    table = own_table(run, options.table, how=f"softfree-lab study sizes {run.folder} --table TABLE").where("test")
    images = _read_images(table)
    shapes = np.array([image.pixels.shape[:2] for image in images])  # (n, 2)
    side = int(shapes.min())
    inference = InferenceOptions(progress=options.progress)
    as_they_are = _positive(run, images, inference)
    equal = _positive(run, [_center(image, side) for image in images], inference)
    height, width = shapes.T.astype(float)
    features = dict(zip(FEATURES, (width, height, width / height, width * height), strict=True))
    rows = [_feature_row(name, values, as_they_are, table) for name, values in features.items()]
    return SizeStudy(
        pd.DataFrame(rows),
        float(roc_auc_score(table.targets, as_they_are)),
        float(roc_auc_score(table.targets, equal)),
        side,
        len(table.targets),
    )


def _read_images(table: Table) -> list[DecodedImage]:
    """Read the images of a table, each row's own frame of a multi-frame file."""
    images, failed = [], 0
    for source, frame in zip(table.sources, table.frames, strict=True):
        try:
            images.append(read_image(str(source), frame=frame))
        except ReadError:
            failed += 1
    if failed:
        raise UserError(f"{failed} of {len(table.sources)} test images cannot be read; see: softfree check")
    return images


def _positive(run: Run, sources: Sequence[DecodedImage], options: InferenceOptions) -> np.ndarray:
    """Return the probability of the positive class, (n,)."""
    logits = infer(run.model, SampleDataset(sources, None, run.image_preprocessing), 2, options)
    return probabilities(logits.values, run.task)[:, 1]


def _center(image: DecodedImage, side: int) -> DecodedImage:
    """Return the center square of an image at ``side`` pixels."""
    unit = image.unit()
    height, width = unit.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = unit[top : top + short, left : left + short]
    return DecodedImage(resize(square, side), 0.0, 1.0, None, (*image.steps, "center square"), image.stored)


def _feature_row(name: str, values: np.ndarray, scores: np.ndarray, table: Table) -> dict[str, Any]:
    area = float(roc_auc_score(table.targets, values))
    row: dict[str, Any] = {"feature": name, "AUROC alone": max(area, 1 - area)}
    for number, label in enumerate(table.task.classes):
        members = table.targets == number
        row[f"correlation within {label}"] = float(spearmanr(values[members], scores[members]).statistic)
    return row
