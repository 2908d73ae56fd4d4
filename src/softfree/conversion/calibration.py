"""The images that a conversion looks at, and the labeled table that it is tested on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from softfree.conversion.options import ConvertOptions
from softfree.core.progress import tracked
from softfree.data.dataset import SampleDataset
from softfree.data.modalities.image import ImagePreprocessing
from softfree.data.table import Table
from softfree.data.table_file import read_table_file
from softfree.inference.predict import find_inputs
from softfree.inference.run import Run
from softfree.reporting.scoring import open_table, own_table
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.readers.image import DecodedImage
from softfree_runtime.sources.inputs import TABLES

Chosen = tuple[list[str | DecodedImage], list[int | None]]


def labeled_table(run: Run, given: list[str]) -> Table:
    """Read the table among ``given`` with the run's classes.

    Raises:
        UserError: not one table, or not one with these labels.
    """
    if not _is_table(given):
        raise UserError("the images come without labels")
    own = run.table_path.resolve() == Path(given[0]).resolve()
    # The run's own table keeps the split that was made for it.
    return own_table(run, how="softfree convert RUN TABLE") if own else open_table(run, Path(given[0]))


def read_batches(
    options: ConvertOptions, preprocessing: ImagePreprocessing, table: Table | None, device: torch.device
) -> tuple[list[Tensor], dict[str, ReadError]]:
    """Read the images to calibrate with.

    Args:
        options: Which, how many, how many at once.
        preprocessing: How.
        table: The labeled table, if there is one.
        device: Where to.

    Returns:
        Batches (B, channels, H, W) of equal shape, and why some images could not be read.

    Raises:
        UserError: no image is found, or none can be read.
    """
    sources, frames = _candidates(options.images, table)
    places = np.unique(np.linspace(0, len(sources) - 1, min(options.count, len(sources))).round().astype(int))
    dataset = SampleDataset(
        [sources[place] for place in places], None, preprocessing, frames=[frames[place] for place in places]
    )
    alike: dict[torch.Size, list[Tensor]] = {}
    failed: dict[str, ReadError] = {}
    numbers = range(len(dataset))
    for number in tracked(numbers, "Reading images", shown=options.progress):
        try:
            image = dataset[number]["image"]
        except ReadError as error:
            failed[str(sources[places[number]])] = error
            continue
        alike.setdefault(image.shape, []).append(image)
    if not alike:
        raise UserError(f"none of the {len(dataset)} images can be read; the first: {next(iter(failed.values()))}")
    batches = [batch.to(device) for images in alike.values() for batch in torch.stack(images).split(options.batch_size)]
    return batches, failed


def _candidates(given: list[str], table: Table | None) -> Chosen:
    """All images, of a table with splits the training rows: what is measured on the others stays honest."""
    if table is not None and len((rows := table.where("train")).frame):
        return rows.files, rows.frames
    found = find_inputs(given, None)
    sources, numbers = [source for _, source, _ in found], [number for _, _, number in found]
    if not _is_table(given):
        return sources, numbers
    listed = read_table_file(Path(given[0]), {"split"}).frame
    if "split" not in listed or not (listed["split"] == "train").any():
        return sources, numbers
    kept = [row for row, split in enumerate(listed["split"].fillna("")) if split == "train"]
    return [sources[row] for row in kept], [numbers[row] for row in kept]


def _is_table(given: list[str]) -> bool:
    return len(given) == 1 and Path(given[0]).suffix.lower() in TABLES
