"""The images that a pretraining learns from: rows of a table or files below a folder; labels are not looked at."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

import pandas as pd
from torch.utils.data import DataLoader

from softfree.data.dataset import EpochSampler, SampleDataset, choose_cache
from softfree.data.preparation import Preparation
from softfree.data.table_file import no_column, read_table_file
from softfree.errors import ReadError, UserError
from softfree.options.pretraining import PretrainOptions
from softfree.prediction import find_inputs
from softfree.runtime.inputs import Found
from softfree.training.samples import kind_of

FEWEST = 2
"""Images below which there is nothing to learn."""


@dataclass(frozen=True)
class Unlabeled:
    """Where the images are.

    Attributes:
        sources: one an image, as the preparation takes it.
        frames: frame of each multi-frame file, counted from 0, or None.
        digest: SHA-256 that changes with the list.
        note: in words which rows were taken.
    """

    sources: tuple[str, ...]
    frames: tuple[int | None, ...]
    digest: str
    note: str


def find_samples(options: PretrainOptions) -> Unlabeled:
    """List the images of a table's training split (all rows when it has no split), or all files below a folder.

    Validation and test rows are left out, so that no image by which a later model is judged has been seen.

    Raises:
        UserError: no table, or too few images.
    """
    kind = kind_of(options)  # type: ignore[arg-type]
    if options.table.is_dir():
        found = find_inputs([options.table], None, kind)
        note = f"all {len(found)} files below the folder"
    else:
        found, note = _training_rows(options, kind)
    sources, frames = tuple(str(source) for _, source, _ in found), tuple(frame for _, _, frame in found)
    if len(sources) < FEWEST:
        raise UserError(f"{options.table} names {len(sources)} images; pretraining needs {FEWEST} or more")
    base = options.images or (options.table if options.table.is_dir() else options.table.parent)
    named = [os.path.relpath(source, base) for source in sources]
    listed = "\n".join(f"{name} {frame}" for name, frame in zip(named, frames, strict=True))
    return Unlabeled(sources, frames, hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest(), note)


def _training_rows(options: PretrainOptions, kind: str) -> tuple[list[Found], str]:
    table = options.table
    frame = read_table_file(table, {"path", "split", "frame"}).frame
    if "path" not in frame:
        raise no_column(table, "path", list(frame.columns), "expected one with the images, relative to the table")
    total, note = len(frame), ""
    if "split" in frame and frame["split"].notna().any():
        frame = frame[frame["split"].eq("train").fillna(False)]
        note = f"the {len(frame)} rows of split train, out of {total}"
    folder = options.images or table.parent
    numbers = frame["frame"] if "frame" in frame else pd.Series(None, frame.index, dtype=object)
    rows: list[Found] = [
        (str(name), str(folder / str(name)), None if pd.isna(number) else int(number))
        for name, number in zip(frame["path"], numbers, strict=True)
        if not pd.isna(name)
    ]
    return rows, note or f"all {len(rows)} rows of the table, which has no split"


def read_samples(
    found: Unlabeled, preparation: Preparation, options: PretrainOptions
) -> tuple[SampleDataset, dict[int, ReadError]]:
    """Read all images once, filling the cache; return them and those that cannot be read.

    Raises:
        UserError: too few images can be read.
    """
    dataset = SampleDataset(
        found.sources,
        None,
        preparation,
        frames=found.frames,
        augmentation=preparation.augmentation() if options.augment else None,
        seed=options.seed,
        cache=choose_cache(options.cache, len(found.sources), preparation),
    )
    bad = dataset.read_all(f"Reading {len(dataset)} images", threads=max(2, options.workers), progress=options.progress)
    if len(dataset) - len(bad) < FEWEST:
        first = f"; the first: {bad[min(bad)]}" if bad else ""
        raise UserError(f"{len(dataset) - len(bad)} of {len(dataset)} images can be read{first}")
    return dataset, bad


def create_loader(dataset: SampleDataset, options: PretrainOptions, rank: int, world: int) -> DataLoader:
    """One device's share of each batch; the last, incomplete batch of an epoch is left out."""
    good = [index for index in range(len(dataset)) if index not in dataset.failed]
    sampler = EpochSampler(good, options.seed, rank, world)
    return DataLoader(
        dataset,
        batch_size=min(max(1, options.batch // world), len(sampler)),
        sampler=sampler,
        drop_last=True,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
    )
