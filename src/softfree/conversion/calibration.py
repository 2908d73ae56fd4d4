"""Calibration images for a conversion, and the labeled table to test it on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from softfree.conversion.options import ConvertOptions
from softfree.core.progress import tracked
from softfree.data.dataset import SampleDataset
from softfree.data.inputs import find_inputs
from softfree.data.modalities.image import ImagePreprocessing
from softfree.data.table import Table
from softfree.data.table_file import read_table_file
from softfree.inference.run import Run
from softfree.reporting.scoring import open_table, own_table
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.readers.image import DecodedImage
from softfree_runtime.sources.inputs import TABLES
from softfree_runtime.sources.sample_source import SampleSource

Candidates = tuple[Sequence[SampleSource | DecodedImage], Sequence[int | None]]


def labeled_table(run: Run, paths: list[str]) -> Table:
    """Read ``paths`` as one table with the run's classes.

    Raises:
        UserError: Not a single table, or one without these labels.
    """
    if not _is_table(paths):
        raise UserError("the images have no labels")
    is_own = run.table_path.resolve() == Path(paths[0]).resolve()
    # The run's own table keeps the split that was drawn for it.
    return own_table(run, how="softfree convert RUN TABLE") if is_own else open_table(run, Path(paths[0]))


def read_batches(
    options: ConvertOptions, preprocessing: ImagePreprocessing, table: Table | None, device: torch.device
) -> tuple[list[Tensor], dict[str, ReadError]]:
    """Read the calibration images.

    Args:
        options: The images, their number and the batch size.
        preprocessing: Preprocessing of the model.
        table: The labeled table, if there is one.
        device: Device of the batches.

    Returns:
        Batches (B, channels, H, W) of equal shape, and the errors of images that could not be read.

    Raises:
        UserError: No image was found, or none can be read.
    """
    sources, frames = _candidates(options.images, table)
    indices = np.unique(np.linspace(0, len(sources) - 1, min(options.count, len(sources))).round().astype(int))
    dataset = SampleDataset(
        [sources[index] for index in indices], None, preprocessing, frames=[frames[index] for index in indices]
    )
    by_shape: dict[torch.Size, list[Tensor]] = {}
    failed: dict[str, ReadError] = {}
    for number in tracked(range(len(dataset)), "Reading images", shown=options.progress):
        try:
            image = dataset[number]["image"]
        except ReadError as error:
            failed[str(sources[indices[number]])] = error
            continue
        by_shape.setdefault(image.shape, []).append(image)
    if not by_shape:
        raise UserError(f"none of the {len(dataset)} images can be read; the first: {next(iter(failed.values()))}")
    batches = [
        batch.to(device) for images in by_shape.values() for batch in torch.stack(images).split(options.batch_size)
    ]
    return batches, failed


def _candidates(paths: list[str], table: Table | None) -> Candidates:
    """Return all images, or only the training rows of a table with splits, so that test metrics stay valid."""
    if table is not None and len((rows := table.where("train")).frame):
        return rows.sources, rows.frames
    inputs = find_inputs(paths, None)
    sources, frames = [source for _, source, _ in inputs], [frame for _, _, frame in inputs]
    if not _is_table(paths):
        return sources, frames
    table_rows = read_table_file(Path(paths[0]), {"split"}).frame
    if "split" not in table_rows or not (table_rows["split"] == "train").any():
        return sources, frames
    train = [row for row, split in enumerate(table_rows["split"].fillna("")) if split == "train"]
    return [sources[row] for row in train], [frames[row] for row in train]


def _is_table(paths: list[str]) -> bool:
    return len(paths) == 1 and Path(paths[0]).suffix.lower() in TABLES
