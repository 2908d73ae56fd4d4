"""How long the trainings of a plan take on this machine, from a few timed steps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import torch
import torch.nn.functional as F

from softfree.core.environment import best_device
from softfree.core.memory import is_out_of_memory
from softfree.core.options import TrainOptions
from softfree.core.precision import products_in
from softfree.data.modalities.base import Preprocessing
from softfree.data.table import Table
from softfree.models.bag import collate_bags
from softfree.models.registry import build_model
from softfree.pretraining.loop import build_autoencoder, encoder_arguments
from softfree.pretraining.options import PretrainOptions
from softfree.training.configuration import configuration
from softfree.training.modality import create_preprocessing
from softfree_runtime.core.errors import ReadError, UserError

READ = 8  # samples that are read for the estimate
BEGIN = 15.0  # seconds of a training besides its steps: models, figures, files


@dataclass(frozen=True)
class Timing:
    """Measured seconds.

    Attributes:
        step: One step of training.
        forward: Inference of one sample.
        read: Reading and preprocessing of one sample.
        augment: Augmentation of one sample.
    """

    step: float
    forward: float
    read: float
    augment: float

    def training(self, rows: int, held: int, options: TrainOptions) -> float:
        """Return the seconds of a training on ``rows`` samples with ``held`` ones for validation."""
        steps = max(1, rows // options.batch_size)
        epoch = steps * (self.step + options.batch_size * self.augment) + held * self.forward
        return options.epochs * epoch + held * self.forward + BEGIN

    def reading(self, rows: int) -> float:
        """Return the seconds to read all samples once; trainings share what was read."""
        return rows * self.read


def time_training(options: TrainOptions, table: Table) -> Timing:
    """Time a training step, an inference and the reading of samples.

    Raises:
        UserError: No sample can be read, or a step does not fit into memory.
    """
    preprocessing = create_preprocessing(options, table.sources)
    model = build_model(configuration(options, table, preprocessing, None)).to(best_device())
    samples, read = _first_samples(preprocessing, table)
    sample = _median(samples)
    augment = _seconds_of_augmentation(preprocessing, sample) if options.augment else 0.0
    single = sample.unsqueeze(0).to(best_device())
    drawn = list(islice(cycle(samples), options.batch_size))  # cases have more and fewer images
    with _memory_explained():
        batch = (collate_bags(drawn) if sample.ndim == 2 else torch.stack([sample] * len(drawn))).to(best_device())

    def step() -> None:
        with products_in(options.precision, batch.device):
            logits = model(batch)
        F.cross_entropy(logits.float(), torch.zeros(len(batch), dtype=torch.long, device=batch.device)).backward()

    def forward() -> None:
        with torch.inference_mode():
            model(single)

    with _memory_explained():
        model.train()
        step_seconds = _seconds(step)
        model.eval()
        return Timing(step_seconds, _seconds(forward), read, augment)


def time_pretraining(options: PretrainOptions, table: Table, rows: int) -> float:
    """Estimate the seconds of a pretraining on ``rows`` images, by timing a step.

    Raises:
        UserError: No sample can be read, or a step does not fit into memory.
    """
    preprocessing = create_preprocessing(options, table.sources)  # type: ignore[arg-type]
    sample = _median(_first_samples(preprocessing, table)[0])
    augment = _seconds_of_augmentation(preprocessing, sample) if options.augment else 0.0
    with _memory_explained():
        images = torch.stack([sample] * options.batch_size).to(best_device())
    model = build_autoencoder(encoder_arguments(options, preprocessing), options).to(best_device()).train()

    def step() -> None:
        with products_in(options.precision, images.device):
            loss = model(images).loss
        loss.backward()

    with _memory_explained():
        seconds = _seconds(step) + options.batch_size * augment
    return options.epochs * max(1, rows // options.batch_size) * seconds + BEGIN


def _median(samples: Sequence[torch.Tensor]) -> torch.Tensor:
    return sorted(samples, key=len)[len(samples) // 2]


def _first_samples(preprocessing: Preprocessing, table: Table) -> tuple[list[torch.Tensor], float]:
    """Return the readable ones of the first samples, and the mean seconds of reading one.

    Raises:
        UserError: The first ones cannot be read.
    """
    samples, began = [], time.perf_counter()
    for source, frame in list(zip(table.sources, table.frames, strict=True))[:READ]:
        try:
            samples.append(torch.from_numpy(preprocessing.load(source, frame)))
        except ReadError:
            continue
    if not samples:
        raise UserError(f"none of the first {READ} samples could be read; see: softfree check")
    return samples, (time.perf_counter() - began) / len(samples)


def _seconds_of_augmentation(preprocessing: Preprocessing, sample: torch.Tensor) -> float:
    augmentation = preprocessing.augmentation()
    return 0.0 if augmentation is None else _seconds(lambda: augmentation(sample, 0))


@contextmanager
def _memory_explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError("a training step does not fit into memory; set --train '{batch_size: ...}'") from None


def has_fast_bf16() -> bool:
    """Whether products in bfloat16 are faster here than in float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    try:
        return any(name in Path("/proc/cpuinfo").read_text() for name in ("avx512_bf16", "amx_bf16"))
    except OSError:
        return False


def busy_cores() -> float:
    """Return how many cores were busy during the last minute, on average; 0 where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _seconds(work: Callable[[], object]) -> float:
    """Return the shortest of a few runs, after one that is not counted; of long ones a single run."""

    def duration() -> float:
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - began

    first = duration()
    return min(duration() for _ in range(1 if first > 2 else 3))
