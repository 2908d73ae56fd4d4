"""The samples of a table, read once and then drawn epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset, default_collate

from softfree.core.options import TrainOptions
from softfree.data.audit.near_duplicates import MOST
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
        train, validation: Datasets of their splits.
        train_files: Paths of the training samples.
        failed: Why samples cannot be read, by table row.
        bags: Whether sizes differ, so that samples are padded to share a batch.
        reduced: Reduced samples of ``train`` and ``val``, for simpler models.
    """

    train: SampleDataset
    validation: SampleDataset
    train_files: list[str]
    failed: dict[int, ReadError]
    bags: bool
    reduced: dict[str, Reduced]

    def shape(self) -> tuple[int, ...]:
        """The shape of the first readable training sample."""
        first = next(index for index in range(len(self.train)) if index not in self.train.failed)
        return tuple(self.train[first]["image"].shape)


def read_samples(table: Table, preprocessing: Preprocessing, options: TrainOptions) -> TrainingSamples:
    """Read all training and validation samples once, to fill the cache and find unreadable ones before hours of work.

    Raises:
        UserError: A split has no readable sample.
    """
    count = len(table.where("train").frame) + len(table.where("val").frame)
    datasets: dict[str, SampleDataset] = {}
    failed: dict[int, ReadError] = {}
    reduced: dict[str, Reduced] = {}
    for split in ("train", "val"):
        part = table.where(split)
        own, augmentation = preprocessing, None
        if split == "train":
            own, augmentation = training_preprocessing(options, preprocessing)
        dataset = SampleDataset(
            part.sources,
            part.targets,
            own,
            frames=part.frames,
            augmentation=augmentation,
            seed=options.seed,
            cache=choose_cache(options.cache, count, own),
        )
        reduced[split] = Reduced(
            len(dataset), preprocessing, drawn(len(dataset), options.seed), thumbnails=len(table.frame) <= MOST
        )
        bad = dataset.read_all(
            f"Reading {len(dataset)} samples ({split})",
            threads=max(2, options.num_workers),
            progress=options.progress,
            on_sample=reduced[split],
        )
        if len(bad) == len(dataset):
            raise UserError(f"none of the {len(bad)} samples of split {split} can be read; the first: {bad[0]}")
        failed |= {int(part.frame["row"].iloc[index]): error for index, error in sorted(bad.items())}
        datasets[split] = dataset
    files = [name_of(source) for source in table.where("train").sources]
    return TrainingSamples(
        datasets["train"], datasets["val"], files, failed, MODALITIES[preprocessing.kind].padded, reduced
    )


def cut_steps(samples: TrainingSamples, options: TrainOptions, rank: int = 0, world: int = 1) -> Step:
    """Split each step of ``batch_size`` times ``grad_accum`` images into batches, and across devices."""
    return Step.cut(len(readable(samples.train)), options.batch_size, options.grad_accum, rank, world)


def create_loaders(
    samples: TrainingSamples, options: TrainOptions, classes: int, step: Step
) -> tuple[DataLoader, DataLoader]:
    """Create the loaders of one device's share of each batch; the last, incomplete step of an epoch is dropped.

    Args:
        samples: Training and validation samples.
        options: Mixing, seed, num_workers.
        classes: K, for the targets of mixed images.
        step: Of which this device takes its share.
    """
    good = readable(samples.train)
    train: Dataset = samples.train
    if options.mixup or options.cutmix:
        train = MixedSamples(samples.train, classes, good, options.mixup, options.cutmix)
    sampler = EpochSampler(good, options.seed, step.rank, step.world, length=step.epoch(len(good)))
    validation = EpochSampler(readable(samples.validation), None, step.rank, step.world)
    batch = min(max(1, options.batch_size // step.world), len(validation))
    return (
        _loader(train, sampler, options, step.batch_size, samples.bags),
        _loader(samples.validation, validation, options, batch, samples.bags),
    )


def readable(dataset: SampleDataset) -> list[int]:
    """Numbers of the samples that can be read."""
    return [index for index in range(len(dataset)) if index not in dataset.failed]


def _loader(dataset: Dataset, sampler: EpochSampler, options: TrainOptions, batch_size: int, bags: bool) -> DataLoader:
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=options.num_workers,
        persistent_workers=options.num_workers > 0,
        collate_fn=_pad if bags else None,
    )


def _pad(samples: Sequence[Sample]) -> dict[str, Any]:
    """Pad a batch of bags to the largest."""
    return default_collate([sample | {"image": 0} for sample in samples]) | {
        "image": collate_bags([sample["image"] for sample in samples])
    }
