"""The images that a pretraining learns from: rows of a table or files below a folder; labels are not looked at."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import cast

from torch.utils.data import DataLoader

from softfree.data.dataset import EpochSampler, SampleDataset, choose_cache
from softfree.data.modalities.base import Preprocessing
from softfree.data.table_file import read_table_file
from softfree.inference.predict import find_inputs, table_rows
from softfree.pretraining.options import PretrainOptions
from softfree.training.microbatches import Step
from softfree.training.modality import modality_of
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.sources.inputs import NamedSource
from softfree_runtime.sources.sample_source import SampleSource

FEWEST = 2
"""Images below which there is nothing to learn."""


@dataclass(frozen=True)
class Unlabeled:
    """Where the images are.

    Attributes:
        sources: One per image, as the preprocessing takes it.
        frames: Frame of each multi-frame file, counted from 0, or None.
        digest: SHA-256 that changes with the list.
        note: In words which rows were taken.
    """

    sources: tuple[SampleSource, ...]
    frames: tuple[int | None, ...]
    digest: str
    note: str


def find_samples(options: PretrainOptions) -> Unlabeled:
    """List the images of a table's training split (all rows when it has no split), or all files below a folder.

    Validation and test rows are left out, so that no image by which a later model is judged has been seen.

    Raises:
        UserError: No table, or too few images.
    """
    kind = modality_of(options).name  # type: ignore[arg-type]
    if options.table.is_dir():
        found = find_inputs([options.table], None, kind)
        note = f"all {len(found)} files below the folder"
    else:
        found, note = _training_rows(options, kind)
    sources, frames = tuple(cast(SampleSource, source) for _, source, _ in found), tuple(frame for _, _, frame in found)
    if len(sources) < FEWEST:
        raise UserError(f"{options.table} names {len(sources)} images; pretraining needs {FEWEST} or more")
    base = options.image_root or (options.table if options.table.is_dir() else options.table.parent)
    named = [os.path.relpath(str(source), base) for source in sources]
    listed = "\n".join(f"{name} {frame}" for name, frame in zip(named, frames, strict=True))
    return Unlabeled(sources, frames, hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest(), note)


def _training_rows(options: PretrainOptions, kind: str) -> tuple[list[NamedSource], str]:
    rows = table_rows(options.table, None, kind, image_root=options.image_root)
    frame = read_table_file(options.table, {"path", "split"}).frame
    if "split" not in frame or frame["split"].isna().all():
        return rows, f"all {len(rows)} rows of the table, which has no split"
    chosen = frame["split"].eq("train").fillna(False)
    return [row for row, kept in zip(rows, chosen, strict=True) if kept], (
        f"the {chosen.sum()} rows of split train, out of {len(rows)}"
    )


def read_samples(
    found: Unlabeled, preprocessing: Preprocessing, options: PretrainOptions
) -> tuple[SampleDataset, dict[int, ReadError]]:
    """Read all images once, filling the cache; return them and those that cannot be read.

    Raises:
        UserError: Too few images can be read.
    """
    dataset = SampleDataset(
        found.sources,
        None,
        preprocessing,
        frames=found.frames,
        augmentation=preprocessing.augmentation() if options.augment else None,
        seed=options.seed,
        cache=choose_cache(options.cache, len(found.sources), preprocessing),
    )
    bad = dataset.read_all(
        f"Reading {len(dataset)} images", threads=max(2, options.num_workers), progress=options.progress
    )
    if len(dataset) - len(bad) < FEWEST:
        first = f"; the first: {bad[min(bad)]}" if bad else ""
        raise UserError(f"{len(dataset) - len(bad)} of {len(dataset)} images can be read{first}")
    return dataset, bad


def create_loader(dataset: SampleDataset, good: list[int], options: PretrainOptions, step: Step) -> DataLoader:
    """One device's share of each batch of the ``good`` images; the last, incomplete step of an epoch is left out."""
    return DataLoader(
        dataset,
        batch_size=step.batch_size,
        sampler=EpochSampler(good, options.seed, step.rank, step.world, length=step.epoch(len(good))),
        num_workers=options.num_workers,
        persistent_workers=options.num_workers > 0,
    )
