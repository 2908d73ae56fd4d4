"""The images of a pretraining: rows of a table or files below a folder; labels are ignored."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from typing import cast

from torch import Tensor
from torch.utils.data import DataLoader

from softfree.data.dataset import EpochSampler, SampleDataset, choose_cache
from softfree.data.folds import training_rows
from softfree.data.inputs import find_inputs, table_rows
from softfree.data.modalities.base import Preprocessing
from softfree.data.modalities.registry import modality_of
from softfree.data.table_file import read_table_file
from softfree.pretraining.masked_autoencoder import MaskedAutoencoder
from softfree.pretraining.options import PretrainOptions
from softfree.training.microbatches import Step
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.sources.inputs import NamedSource
from softfree_runtime.sources.sample_source import SampleSource

MIN_IMAGES = 2
"""Minimum number of images."""


@dataclass(frozen=True)
class Unlabeled:
    """A list of images.

    Attributes:
        sources: One per image.
        frames: Frame of each multi-frame file, counted from 0, or None.
        digest: SHA-256 of the list.
        note: Description of the rows that were used.
    """

    sources: tuple[SampleSource, ...]
    frames: tuple[int | None, ...]
    digest: str
    note: str


def find_samples(options: PretrainOptions) -> Unlabeled:
    """List the images of a table's training split (all rows if it has no split), or all files below a folder.

    Validation and test rows, or those of the held-out fold, are left out, so that a later model is never evaluated on
    images seen in pretraining.

    Raises:
        UserError: The table is missing, or there are too few images.
    """
    kind = modality_of(options).name  # type: ignore[arg-type]
    if options.table.is_dir() and options.fold_file is not None:
        raise UserError(f"--fold-file is for tables, and {options.table} is a folder: write its table")
    if options.table.is_dir():
        images = find_inputs([options.table], None, kind)
        note = f"all {len(images)} files below the folder"
    else:
        images, note = _training_rows(options, kind)
    sources, frames = (
        tuple(cast(SampleSource, source) for _, source, _ in images),
        tuple(frame for _, _, frame in images),
    )
    if len(sources) < MIN_IMAGES:
        raise UserError(f"{options.table} names {len(sources)} images; pretraining needs {MIN_IMAGES} or more")
    base = options.image_root or (options.table if options.table.is_dir() else options.table.parent)
    names = [os.path.relpath(str(source), base) for source in sources]
    listed = "\n".join(f"{name} {frame}" for name, frame in zip(names, frames, strict=True))
    return Unlabeled(sources, frames, hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest(), note)


def _training_rows(options: PretrainOptions, kind: str) -> tuple[list[NamedSource], str]:
    rows = table_rows(options.table, None, kind, image_root=options.image_root)
    table = read_table_file(options.table, {"path", "split"})
    if options.fold_file is not None and options.fold is not None:
        numbers = training_rows(options.fold_file, options.fold, options.repeat, table.digest)
        return [rows[number] for number in numbers], (
            f"the {len(numbers)} rows outside of fold {options.fold}, out of {len(rows)}"
        )
    frame = table.frame
    if "split" not in frame or frame["split"].isna().all():
        return rows, f"all {len(rows)} rows of the table, which has no split"
    is_training = frame["split"].eq("train").fillna(False)
    return [row for row, kept in zip(rows, is_training, strict=True) if kept], (
        f"the {is_training.sum()} rows of split train, out of {len(rows)}"
    )


def read_samples(
    images: Unlabeled, preprocessing: Preprocessing, options: PretrainOptions, model: MaskedAutoencoder
) -> tuple[SampleDataset, dict[int, ReadError]]:
    """Read all images once, filling the cache; return the data set and why images are left out.

    Raises:
        UserError: Too few images can be used.
    """
    single: dict[int, ReadError] = {}

    def note_single(index: int, image: Tensor, _: tuple[int, ...]) -> None:
        if math.prod(model.grid_of(image.shape[1:])) < 2:
            single[index] = ReadError("is one patch, of which none can be hidden", "unsupported", dataset.name(index))

    dataset = SampleDataset(
        images.sources,
        None,
        preprocessing,
        frames=images.frames,
        augmentation=preprocessing.augmentation() if options.augment else None,
        seed=options.seed,
        cache=choose_cache(options.cache, len(images.sources), preprocessing),
    )
    errors = dataset.read_all(
        f"Reading {len(dataset)} images",
        threads=max(2, options.num_workers),
        progress=options.progress,
        on_sample=note_single,
    )
    errors |= single
    if len(dataset) - len(errors) < MIN_IMAGES:
        first = f"; the first: {errors[min(errors)]}" if errors else ""
        raise UserError(f"{len(dataset) - len(errors)} of {len(dataset)} images can be used{first}")
    return dataset, errors


def create_loader(dataset: SampleDataset, readable: list[int], options: PretrainOptions, step: Step) -> DataLoader:
    """Load one device's share of each batch of the ``readable`` images, without an incomplete last step."""
    return DataLoader(
        dataset,
        batch_size=step.batch_size,
        sampler=EpochSampler(readable, options.seed, step.rank, step.world, length=step.epoch(len(readable))),
        num_workers=options.num_workers,
        persistent_workers=options.num_workers > 0,
    )
