"""Evaluation of runs on corrupted images, over the same resampled patients."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import data

from softfree.data.dataset import SampleDataset
from softfree.data.modalities.image import ImagePreprocessing
from softfree.data.table import Table
from softfree.evaluation.scores import Scores
from softfree.inference.forward import Logits, infer
from softfree.inference.options import InferenceOptions
from softfree.inference.run import Run
from softfree_lab.studies.corruptions import CORRUPTIONS
from softfree_lab.studies.options import RobustnessOptions
from softfree_lab.studies.paired_bootstrap import BootstrapEstimate, bootstrap
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.core.outputs import probabilities
from softfree_runtime.readers import read_image
from softfree_runtime.readers.image import DecodedImage
from softfree_runtime.sources.sample_source import file_of


class Variant(NamedTuple):
    """A corruption at a strength; strength 0 is no corruption."""

    corruption: str
    strength: int


ORIGINAL = Variant("none", 0)


@dataclass(frozen=True, eq=False)
class RobustnessResult:
    """The AUROC of a run on one set of images.

    Attributes:
        areas: AUROC (with several classes, their mean) for each variant.
        images: Equal for runs that saw the same images with the same labels and patients.
        n: Number of readable images.
        unreadable: Number of unreadable images, by reason.
    """

    areas: Mapping[Variant, BootstrapEstimate]
    images: tuple[str, bytes]
    n: int
    unreadable: Mapping[str, int]


def measure(
    runs: Sequence[Run], tables: Sequence[Table], variants: Sequence[Variant], options: RobustnessOptions, *, seed: int
) -> list[RobustnessResult]:
    """Test each run on the rows of its table; runs with equal preprocessing share reading and corruption.

    Args:
        runs: Runs of one task.
        tables: The rows to test each run on.
        variants: Corruptions and strengths.
        options: Batch size, number of workers and of resamples, progress, and the seed of the noise.
        seed: Seed of the resamples.
    """
    groups = defaultdict(list)
    for number, (run, table) in enumerate(zip(runs, tables, strict=True)):
        groups[run.image_preprocessing, _identity(table)].append(number)
    results: dict[int, RobustnessResult] = {}
    for (preprocessing, identity), members in groups.items():
        table = tables[members[0]]
        dataset = CorruptedImages(table, preprocessing, variants, options.seed)
        logits = _logits([runs[number] for number in members], dataset, options)
        values = logits.values.reshape(len(table.targets), len(variants), len(members), -1)
        readable, reasons = _readable(logits, len(table.targets), len(variants))
        for position, number in enumerate(members):
            areas = _areas(runs[number], table, values[:, :, position], readable, options.num_bootstrap, seed)
            results[number] = RobustnessResult(
                dict(zip(variants, areas, strict=True)), identity, int(readable.sum()), reasons
            )
    return [results[number] for number in range(len(runs))]


class CorruptedImages(data.Dataset):
    """Every image of a table in every variant, preprocessed; item ``image * len(variants) + variant``.

    One image is kept at a time. Its noise depends only on ``seed`` and on its row of the table.
    """

    def __init__(self, table: Table, preprocessing: ImagePreprocessing, variants: Sequence[Variant], seed: int) -> None:
        self.files = [file_of(source).path for source in table.sources]
        self.frames, self.rows = table.frames, table.frame["row"].tolist()
        self.preprocessing, self.variants, self.seed = preprocessing, list(variants), seed
        self.partial: dict[int, ReadError] = {}  # images are read whole or not at all
        self._last: tuple[int, np.ndarray | ReadError] = (-1, np.empty(0))

    def __len__(self) -> int:
        return len(self.files) * len(self.variants)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return ``image`` (C, H, W); raises ReadError if the file has no usable image."""
        number, variant = divmod(index, len(self.variants))
        pixels = self._unit(number)
        corruption, strength = self.variants[variant]
        if strength:
            rng = np.random.default_rng((self.seed, self.rows[number]))
            pixels = CORRUPTIONS[corruption](pixels, strength, rng)
        image = DecodedImage(pixels, 0.0, 1.0, None, (), "corrupted" if strength else "")
        return {"image": torch.from_numpy(self.preprocessing(image))}

    def name(self, index: int) -> str:
        """Return the file of an item, for messages."""
        return self.files[index // len(self.variants)]

    def _unit(self, number: int) -> np.ndarray:
        """Read an image, or return the one that was read last."""
        if self._last[0] != number:
            frame = self.frames[number]
            try:
                image = read_image(self.files[number], frame=frame)
                self._last = (number, image.unit())
            except ReadError as error:
                self._last = (number, error)
        pixels = self._last[1]
        if isinstance(pixels, ReadError):
            raise pixels
        return pixels


class _Together(nn.Module):
    """Several models on the same images: logits (B, models * K)."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([model(images) for model in self.models], dim=1)


def _identity(table: Table) -> tuple[str, bytes]:
    columns = [name for name in ("file", "frame", "row", "patient") if name in table.frame]
    return table.frame[columns].to_csv(), table.targets.tobytes()


def _logits(runs: Sequence[Run], dataset: CorruptedImages, options: RobustnessOptions) -> Logits:
    return infer(
        _Together([run.model for run in runs]),
        cast(SampleDataset, dataset),  # only its length, items and names are used
        len(runs[0].task.outputs) * len(runs),
        InferenceOptions(batch_size=options.batch_size, num_workers=options.num_workers, progress=options.progress),
        description="Testing",
    )


def _readable(logits: Logits, images: int, variants: int) -> tuple[np.ndarray, dict[str, int]]:
    """Return which images could be read, boolean ``(images,)``, and count the reasons of the others."""
    failed = {item // variants: error for item, error in logits.failed.items()}
    if len(failed) == images:
        raise UserError(f"none of the {images} test images could be read; the first: {failed[0]}")
    readable = np.array([number not in failed for number in range(images)])
    return readable, dict(Counter(error.status for error in failed.values()))


def _areas(
    run: Run, table: Table, logits: np.ndarray, readable: np.ndarray, num_bootstrap: int, seed: int
) -> list[BootstrapEstimate]:
    """Compute the AUROC of each variant from ``logits`` (images, variants, K) of one run."""
    patients = table.frame["patient"].to_numpy()[readable]
    areas = []
    for variant in range(logits.shape[1]):
        p = probabilities(logits[readable, variant], run.task, run.calibration.temperature)
        scores = Scores(run.task, p, table.targets[readable], patients)
        areas.append(bootstrap(scores, ["auroc"], num_bootstrap=num_bootstrap, seed=seed)["auroc"])
    return areas
