"""Thumbnails of the images that a model was most wrong about."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pandas as pd
from PIL import Image

from softfree.data.table import Table
from softfree.evaluation.metric_specs import predict_labels
from softfree.evaluation.report import Thumbnail
from softfree.evaluation.scores import Scores
from softfree.inference.run import Run
from softfree_runtime.core.errors import ReadError
from softfree_runtime.core.task import Task
from softfree_runtime.readers import read_image
from softfree_runtime.sources.sample_source import CaseFile, SampleSource, files_of

MAX_IMAGES = 12  # in a report


def worst_errors(run: Run, table: Table, frame: pd.DataFrame, scores: Scores) -> list[Thumbnail]:
    """Return the images that the model was most wrong about."""
    readable = frame[frame["status"] == "ok"].reset_index(drop=True)
    if run.task.exclusive:
        truth = scores.targets.astype(int)
        probability = scores.probabilities[np.arange(len(truth)), truth]
    else:
        error = np.abs(scores.probabilities - scores.targets)
        probability = 1 - np.nanmax(np.where(np.isnan(error), 0, error), axis=1)
    wrong = _wrong(run, scores)
    sources = table.sources_by_row()
    thumbnails = []
    for index in np.argsort(probability)[:MAX_IMAGES]:
        row = int(readable["row"][index])
        if not wrong[index]:
            continue
        words = f"{_truth(run.task, scores, index)}, probability {probability[index]:.2f}"
        for view, png in _images_of(*sources[row]):
            thumbnails.append(Thumbnail(png, f"row {row}{view}: {words}"))
    return thumbnails


def _images_of(source: SampleSource, number: int | None) -> Iterator[tuple[str, bytes]]:
    """Yield a thumbnail of each readable image of a sample, and which view of a case it is, in words."""
    for file in files_of(source):
        frame, view = (file.frame, file.view) if isinstance(file, CaseFile) else (number, "")
        png = thumbnail(file.path, frame)
        if png is not None:
            yield f", {view}" if view else "", png


def _wrong(run: Run, scores: Scores) -> np.ndarray:
    """Return which images ``(n,)`` are labeled incorrectly, at the thresholds of the metrics."""
    present = predict_labels(scores, run.calibration.thresholds or None)
    if run.task.exclusive:
        return np.asarray(present.argmax(axis=1) != scores.targets)
    return np.asarray(((present != scores.targets) & ~np.isnan(scores.targets)).any(axis=1))


def _truth(task: Task, scores: Scores, index: int) -> str:
    if task.exclusive:
        return task.classes[int(scores.targets[index])]
    return ", ".join(n for n, t in zip(task.classes, scores.targets[index], strict=True) if t == 1) or "no finding"


def thumbnail(file: str, frame: int | None = None, side: int = 256) -> bytes | None:
    """Return a small PNG of a file, or None if it cannot be read."""
    try:
        unit = read_image(file, frame=frame).unit()
    except ReadError:
        return None
    pixels = (unit * 255).round().astype(np.uint8)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
