"""Data loading throughput compared with training throughput."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import torch
from torch.utils.data import DataLoader

from softfree.core.environment import describe_machine
from softfree.data.dataset import EpochSampler, Sample, SampleDataset
from softfree.data.modalities.image import ImageAugmentation, ImagePreprocessing
from softfree.data.table import Table, read_table
from softfree.models import create_model
from softfree_lab.bench.options import LoaderBenchOptions
from softfree_lab.records import markdown_table, write_record

WORKERS = (0, 1, 2)
ROUNDS = 3


def bench_loader(options: LoaderBenchOptions, table_path: str | Path) -> str:
    """Measure images per second of the loader, with and without cache, and of training steps on ready tensors.

    Cases take turns, in three rounds; each row has the median, lowest and highest rate.

    Returns:
        The rates and the machine as Markdown.
    """
    table = read_table(Path(table_path), label=options.label, image_root=options.image_root).where("train")
    preprocessing = ImagePreprocessing.create(options.preset, options.size, options.resize_mode, options.channels)
    cases: dict[tuple[str, str, int], Callable[[], float]] = {}
    for cache in ("none", "memory"):
        dataset = _dataset(table, preprocessing, cache)
        if cache == "memory":
            dataset.read_all("Filling the cache", threads=2)
        for workers in WORKERS:
            cases["loader", cache, workers] = lambda d=dataset, w=workers: _loader_rate(d, w, options)  # type: ignore[misc]
    step = _training_step(options, preprocessing, len(table.task.classes))
    cases[f"training step, {options.model}", "", 0] = lambda: _rate(step, options)
    rates: dict[tuple[str, str, int], list[float]] = {case: [] for case in cases}
    for _ in range(ROUNDS):
        for case, measure in cases.items():
            rates[case].append(measure())
    rows = [(*case, statistics.median(r), min(r), max(r)) for case, r in rates.items()]
    result = pd.DataFrame(rows, columns=["what", "cache", "workers", "images_per_s", "low", "high"])
    machine = describe_machine()
    if options.out is not None:
        recorded = vars(options) | {"image_root": options.image_root and "a folder of images"}
        write_record(options.out, result, recorded, machine=machine)
    return f"{markdown_table(result.columns, result.round(1).to_numpy().tolist())}\n{machine}\n"


def _dataset(table: Table, preprocessing: ImagePreprocessing, cache: str) -> SampleDataset:
    return SampleDataset(
        table.sources,
        table.targets,
        preprocessing,
        augmentation=ImageAugmentation(preprocessing),
        cache=cache,
    )


def _loader_rate(dataset: SampleDataset, num_workers: int, options: LoaderBenchOptions) -> float:
    batches = _endless(dataset, num_workers, options.batch_size)
    next(batches)  # starts the workers
    return _rate(lambda: next(batches), options)


def _endless(dataset: SampleDataset, num_workers: int, batch_size: int) -> Iterator[Sample]:
    sampler = EpochSampler(range(len(dataset)), seed=0)
    loader: DataLoader[Sample] = DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        drop_last=True,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    while True:
        yield from loader
        sampler.set_epoch(sampler.epoch + 1)


def _training_step(options: LoaderBenchOptions, preprocessing: ImagePreprocessing, classes: int) -> Callable[[], None]:
    model = create_model(
        options.model, img_size=options.size, in_chans=preprocessing.channels, num_classes=classes, stem="conv"
    )
    optimizer = torch.optim.AdamW(model.parameters())
    pixels = torch.randn(options.batch_size, preprocessing.channels, options.size, options.size)

    def step() -> None:
        model(pixels).logsumexp(1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _rate(step: Callable[[], object], options: LoaderBenchOptions) -> float:
    step()
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < options.seconds:
        step()
        count += options.batch_size
    return count / (time.perf_counter() - started)
