"""The pictures of a table, read once and then drawn epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from torch.utils.data import DataLoader

from softfree.data.dataset import EpochSampler, PictureDataset, choose_cache
from softfree.data.table import Table
from softfree.data.transforms import Augmentation, Preprocessing
from softfree.errors import ReadError, UserError
from softfree.options import TrainOptions


@dataclass(frozen=True)
class Pictures:
    """Training and validation pictures.

    Attributes:
        train, validation: datasets over the rows of their splits.
        train_files: paths of the training pictures.
        failed: pictures that cannot be read, by row of the table.
    """

    train: PictureDataset
    validation: PictureDataset
    train_files: list[str]
    failed: dict[int, ReadError]


def read_pictures(table: Table, preprocessing: Preprocessing, options: TrainOptions) -> Pictures:
    """Read all training and validation pictures once: it fills the cache and finds the bad ones before hours of work.

    Raises:
        UserError: when a split has no readable picture.
    """
    count = len(table.where("train").frame) + len(table.where("val").frame)
    cache = choose_cache(options.cache, count, preprocessing)
    datasets: dict[str, PictureDataset] = {}
    failed: dict[int, ReadError] = {}
    for split in ("train", "val"):
        part = table.where(split)
        frames = [None if pd.isna(f) else int(f) for f in part.frame["frame"]] if "frame" in part.frame else None
        augmentation = Augmentation(preprocessing) if options.augment and split == "train" else None
        dataset = PictureDataset(
            part.frame["file"].tolist(),
            part.targets,
            preprocessing,
            frames=frames,
            augmentation=augmentation,
            seed=options.seed,
            cache=cache,
        )
        bad = dataset.read_all(
            f"Reading {len(dataset)} pictures ({split})", threads=max(2, options.workers), progress=options.progress
        )
        if len(bad) == len(dataset):
            raise UserError(f"none of the {len(bad)} pictures of split {split} can be read; the first: {bad[0]}")
        failed |= {int(part.frame["row"].iloc[index]): error for index, error in sorted(bad.items())}
        datasets[split] = dataset
    return Pictures(datasets["train"], datasets["val"], table.where("train").frame["file"].tolist(), failed)


def create_loaders(pictures: Pictures, options: TrainOptions, rank: int, world: int) -> tuple[DataLoader, DataLoader]:
    """Loaders of one device's share of each batch; the last, incomplete training batch of an epoch is left out."""
    share = max(1, options.batch // world)

    def loader(dataset: PictureDataset, seed: int | None) -> DataLoader:
        good = [index for index in range(len(dataset)) if index not in dataset.failed]
        sampler = EpochSampler(good, seed, rank, world)
        return DataLoader(
            dataset,
            batch_size=min(share, len(sampler)),
            sampler=sampler,
            drop_last=seed is not None,
            num_workers=options.workers,
            persistent_workers=options.workers > 0,
        )

    return loader(pictures.train, options.seed), loader(pictures.validation, None)
