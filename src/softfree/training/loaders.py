"""Data loaders for the samples of a table, all of which are read once before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset, default_collate

from softfree.core.options import TrainOptions
from softfree.data.audit.near_duplicates import MAX_IMAGES
from softfree.data.dataset import EpochSampler, Sample, SampleDataset, choose_cache
from softfree.data.modalities.base import Preprocessing
from softfree.data.modalities.registry import MODALITIES
from softfree.data.reduced import Reduced, drawn
from softfree.data.table import Table
from softfree.models.bag import collate_bags
from softfree.training.microbatches import Step
from softfree.training.mixup import MixedSamples
from softfree.training.modality import training_preprocessing
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.sources.sample_source import name_of


@dataclass(frozen=True)
class TrainingSamples:
    """Training and validation samples.

    Attributes:
        train, validation: Datasets of the two splits.
        train_files: Paths of the training samples.
        failed: Read errors by table row.
        partial: Read errors of cases of which some images can be read, by table row.
        padded: Whether samples of different sizes are padded to share a batch.
        reduced: Reduced samples of ``train`` and ``val``, for simpler models.
    """

    train: SampleDataset
    validation: SampleDataset
    train_files: list[str]
    failed: dict[int, ReadError]
    partial: dict[int, ReadError]
    padded: bool
    reduced: dict[str, Reduced]

    def shape(self) -> tuple[int, ...]:
        """Return the shape of the first readable training sample."""
        first = next(index for index in range(len(self.train)) if index not in self.train.failed)
        return tuple(self.train[first]["image"].shape)


def read_samples(table: Table, preprocessing: Preprocessing, options: TrainOptions) -> TrainingSamples:
    """Read all training and validation samples once, to fill the cache and find unreadable ones before training.

    Raises:
        UserError: A split has no readable sample.
    """
    count = len(table.where("train").frame) + len(table.where("val").frame)
    datasets: dict[str, SampleDataset] = {}
    failed: dict[int, ReadError] = {}
    partial: dict[int, ReadError] = {}
    reduced: dict[str, Reduced] = {}
    for split in ("train", "val"):
        rows = table.where(split)
        split_preprocessing, augmentation = preprocessing, None
        if split == "train":
            split_preprocessing, augmentation = training_preprocessing(options, preprocessing)
        dataset = SampleDataset(
            rows.sources,
            rows.targets,
            split_preprocessing,
            frames=rows.frames,
            augmentation=augmentation,
            seed=options.seed,
            cache=choose_cache(options.cache, count, split_preprocessing),
        )
        reduced[split] = Reduced(
            len(dataset), preprocessing, drawn(len(dataset), options.seed), thumbnails=len(table.frame) <= MAX_IMAGES
        )
        errors = dataset.read_all(
            f"Reading {len(dataset)} samples ({split})",
            threads=max(2, options.num_workers),
            progress=options.progress,
            on_sample=reduced[split],
        )
        if len(errors) == len(dataset):
            raise UserError(f"none of the {len(errors)} samples of split {split} can be read; the first: {errors[0]}")
        for found, own in ((failed, errors), (partial, dataset.partial)):
            found |= {int(rows.frame["row"].iloc[index]): error for index, error in sorted(own.items())}
        datasets[split] = dataset
    files = [name_of(source) for source in table.where("train").sources]
    return TrainingSamples(
        datasets["train"], datasets["val"], files, failed, partial, MODALITIES[preprocessing.kind].padded, reduced
    )


def cut_steps(samples: TrainingSamples, options: TrainOptions, rank: int = 0, world: int = 1) -> Step:
    """Split each step of ``batch_size`` times ``grad_accum`` images into batches and across devices."""
    return Step.cut(len(readable(samples.train)), options.batch_size, options.grad_accum, rank, world)


def create_loaders(
    samples: TrainingSamples, options: TrainOptions, classes: int, step: Step
) -> tuple[DataLoader, DataLoader]:
    """Create the loaders of one device's share of each batch; the last, incomplete step of an epoch is dropped.

    Args:
        samples: Training and validation samples.
        options: Mixup and CutMix, seed and workers.
        classes: K, for the targets of mixed images.
        step: The optimizer step, of which this device takes its share.
    """
    indices = readable(samples.train)
    train: Dataset = samples.train
    if options.mixup or options.cutmix:
        train = MixedSamples(samples.train, classes, indices, options.mixup, options.cutmix)
    sampler = EpochSampler(indices, options.seed, step.rank, step.world, length=step.epoch(len(indices)))
    validation_sampler = EpochSampler(readable(samples.validation), None, step.rank, step.world)
    batch_size = min(max(1, options.batch_size // step.world), len(validation_sampler))
    return (
        _loader(train, sampler, options, step.batch_size, samples.padded),
        _loader(samples.validation, validation_sampler, options, batch_size, samples.padded),
    )


def readable(dataset: SampleDataset) -> list[int]:
    """Return the indices of the readable samples."""
    return [index for index in range(len(dataset)) if index not in dataset.failed]


def _loader(
    dataset: Dataset, sampler: EpochSampler, options: TrainOptions, batch_size: int, padded: bool
) -> DataLoader:
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=options.num_workers,
        persistent_workers=options.num_workers > 0,
        collate_fn=_pad if padded else None,
    )


def _pad(samples: Sequence[Sample]) -> dict[str, Any]:
    """Collate bags, padded to the size of the largest."""
    return default_collate([sample | {"image": 0} for sample in samples]) | {
        "image": collate_bags([sample["image"] for sample in samples])
    }
