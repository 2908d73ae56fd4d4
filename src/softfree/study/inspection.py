"""What the samples of a table are, as far as a plan needs to know."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, TypeVar

import numpy as np

from softfree.core.progress import tracked
from softfree.data.audit.audit import audit
from softfree.data.audit.checks import counted
from softfree.data.audit.probe import kind_of_source
from softfree.data.folds import Folds
from softfree.data.samples import image_positions, single_images
from softfree.data.table import Table
from softfree.data.targets import tables_of
from softfree.reporting.facts import times_in_words
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.core.targets import Targets
from softfree_runtime.readers import read_image
from softfree_runtime.readers.image import DecodedImage
from softfree_runtime.readers.volume import Volume
from softfree_runtime.sources.cases import CASE
from softfree_runtime.sources.volume_files import read_volume

MAX_SAMPLES = 100
"""Number of samples that are read for a plan, if that takes less than :data:`MAX_SECONDS`."""
MAX_SECONDS = 30.0
MAX_AUDITED = 2_000
"""Number of samples up to which a plan includes an audit, which reads all of them."""
SIDE = 16  # pixels of a thumbnail
PERMUTATIONS = 50
DIRECTIONAL = 0.05  # share of an image's variance, from which images have a direction
AIR, BONE = -200.0, 200.0  # Hounsfield units that CT goes below and above, and hardly any other modality
COLORFUL = 0.02  # mean difference of the color channels, of 1, from which an image has colors


Description = TypeVar("Description")


@dataclass(frozen=True)
class ImageFacts:
    """Facts about a random part of the images of a table.

    Attributes:
        read: Number of images read.
        unreadable: Number of images that could not be read.
        sides: Median of the longer sides, in pixels.
        color: Share of images with colors.
        oriented: Whether up and down, left and right differ in the images.
    """

    read: int
    unreadable: int
    sides: int
    color: float
    oriented: bool


@dataclass(frozen=True)
class VolumeFacts:
    """Facts about a random part of the volumes of a table.

    Attributes:
        read: Number of volumes read.
        unreadable: Number of volumes that could not be read.
        spacing: Median millimeters between slices, rows and columns.
        extent: Millimeters along these axes that 95 % of the volumes fit into.
        ct: Share of volumes whose values are Hounsfield units.
    """

    read: int
    unreadable: int
    spacing: tuple[float, float, float]
    extent: tuple[float, float, float]
    ct: float


def kind_of(table: Table) -> Literal["image", "volume"]:
    """Tell whether the samples are images or volumes.

    Raises:
        UserError: Both, or slides or bags of features, which have no plan yet.
    """
    kinds = Counter(map(kind_of_source, table.sources))
    others = kinds["slide"] + kinds["bag"]
    if others or "mpp" in table.frame:
        raise UserError(
            f"{others or len(table.frame)} of {len(table.frame)} rows are slides or tile features: softfree auto plans"
            " images and volumes; use softfree train"
        )
    if len(kinds) > 1:
        raise UserError(
            f"{kinds['volume']} of {len(table.frame)} rows are volumes, the others images; make a table for each"
        )
    return "volume" if kinds["volume"] else "image"


def audit_in_words(table: Table, folds: Folds, *, num_workers: int = 0, progress: bool = False) -> list[str]:
    """Summarize the audit of ``softfree check``: a sentence on each problem, errors first.

    Nearly identical images count if they lie in different folds, or in a fold and in the fixed test set.

    Raises:
        UserError: No sample can be read.
    """
    if isinstance(table.task, Targets):
        return _audits_in_words(table, folds, num_workers=num_workers, progress=progress)
    positions = image_positions(table)
    table = single_images(table)
    number = len(positions)
    if number > MAX_AUDITED:
        return [f"not audited, because of more than {MAX_AUDITED:,} samples; see: softfree check"]
    numbers = folds.numbers[0][positions]
    parts = table.frame.assign(split=np.where(numbers >= 0, "train", "test"))
    names = np.array([*folds.names, ""], dtype=object)[numbers].tolist()
    found = audit(replace(table, frame=parts), num_workers=num_workers, progress=progress, folds=names)
    if not found.problems:
        return ["no problem found"]
    totals = f"{counted(found.errors, 'error')}, {counted(found.warnings, 'warning')}; all cases: softfree check"
    return [totals, *(f"{problem.severity}: {problem.message}" for problem in found.problems)]


def _audits_in_words(table: Table, folds: Folds, **reading: Any) -> list[str]:
    """Summarize an audit for each of several targets; what several have in common is said once."""
    assert isinstance(table.task, Targets)
    known = table.task.known(table.targets)
    sentences: dict[str, list[str]] = {}
    for name, rows in tables_of(table).items():
        part = replace(folds, numbers=folds.numbers[:, known[name]])
        for sentence in audit_in_words(rows, part, **reading):
            sentences.setdefault(sentence, []).append(name)
    return [f"{', '.join(names)}: {sentence}" for sentence, names in sentences.items()]


def inspect_images(table: Table, *, seed: int = 0, progress: bool = False) -> ImageFacts:
    """Read up to :data:`MAX_SAMPLES` images, drawn at random, and describe them.

    Raises:
        UserError: None can be read.
    """
    images, unreadable = _described(
        table,
        lambda source, frame: _describe_image(read_image(source, frame=frame)),
        seed=seed,
        progress=progress,
    )
    sides, colors, thumbnails = zip(*images, strict=True)
    square = {image.shape for image in thumbnails} == {(SIDE, SIDE)}
    oriented = not square or is_oriented(np.stack(thumbnails), seed=seed)
    return ImageFacts(len(sides), unreadable, int(np.median(sides)), float(np.mean(colors)), oriented)


def _describe_image(image: DecodedImage) -> tuple[int, bool, np.ndarray]:
    """Return the longer side, whether there are colors, and a thumbnail."""
    return max(image.pixels.shape[:2]), has_color(image), thumbnail(image)


def inspect_volumes(table: Table, *, seed: int = 0, progress: bool = False) -> VolumeFacts:
    """Read up to :data:`MAX_SAMPLES` volumes, drawn at random, and describe them.

    Raises:
        UserError: None can be read.
    """
    volumes, unreadable = _described(
        table, lambda source, frame: _describe_volume(read_volume(source, frame)), seed=seed, progress=progress
    )
    spacings, sides, is_ct = zip(*volumes, strict=True)
    extent = np.quantile(np.multiply(spacings, sides), 0.95, axis=0, method="higher")
    spacing = np.median(spacings, axis=0)
    return VolumeFacts(len(volumes), unreadable, tuple(spacing.tolist()), tuple(extent.tolist()), float(np.mean(is_ct)))


def _describe_volume(volume: Volume) -> tuple[tuple[float, float, float], tuple[int, ...], bool]:
    """Return the spacing, the numbers of slices, rows and columns, and whether it looks like CT."""
    is_ct = bool(volume.voxels.min() < AIR and volume.voxels.max() > BONE)
    return volume.spacing, volume.voxels.shape[1:], is_ct


def _described(
    table: Table, describe: Callable[[Any, int | None], Description], *, seed: int, progress: bool
) -> tuple[list[Description], int]:
    """Describe samples drawn at random; return the descriptions, and the number of samples that cannot be read."""
    rows = np.random.default_rng(seed).permutation(len(table.frame))[:MAX_SAMPLES]
    sources, frames = table.sources, table.frames
    descriptions: list[Description] = []
    unreadable = 0
    began = time.monotonic()
    for row in tracked(rows.tolist(), "Looking at samples", total=len(rows), shown=progress):
        if time.monotonic() - began > MAX_SECONDS and descriptions:
            break
        try:
            descriptions.append(describe(sources[row], frames[row]))
        except ReadError:
            unreadable += 1
    if not descriptions:
        raise UserError(f"none of {len(rows)} samples could be read; see: softfree check")
    return descriptions, unreadable


def has_color(image: DecodedImage) -> bool:
    """Whether the channels differ by more than compression makes them."""
    pixels = image.unit()
    return bool(pixels.shape[2] >= 3 and np.ptp(pixels[..., :3], axis=2).mean() > COLORFUL)


def thumbnail(image: DecodedImage) -> np.ndarray:
    """Return gray means over a grid, of the shape of the image: 16 x 16 if it is square, standardized."""
    gray = image.unit().mean(axis=2)
    height, width = gray.shape
    ratio = height * image.growth[0] / (width * image.growth[1])
    rows, columns = (SIDE, SIDE) if 0.9 < ratio < 1.1 else (SIDE, SIDE + 1)
    grid = _cell_means(_cell_means(gray, rows).T, columns).T
    return (grid - grid.mean()) / max(float(grid.std()), 1e-6)


def _cell_means(values: np.ndarray, cells: int) -> np.ndarray:
    edges = np.linspace(0, len(values), cells + 1).round().astype(int)
    return np.stack([values[a : max(b, a + 1)].mean(axis=0) for a, b in pairwise(edges)])


def is_oriented(thumbnails: np.ndarray, *, seed: int = 0) -> bool:
    """Tell whether square images have a direction: whether their mean changes under turns and reflections.

    The spread of the mean image over the eight turns and reflections, less what is left of it after each image was
    turned at random, is compared with the variance of an image: in chest radiographs it is 0.45 of it, in photographs
    of the retina 0.18, in those of skin 0.011, in blood cells under the microscope 0.007.

    Args:
        thumbnails: Standardized gray images (n, s, s).
        seed: Seed of the random turns.
    """
    rng = np.random.default_rng(seed)
    views = np.stack([_view(thumbnails, number) for number in range(8)])  # (8, n, s, s)
    everyone = np.arange(len(thumbnails))

    def spread(turns: np.ndarray) -> float:
        """Variance of the mean image over a second turn of all, after one turn of each."""
        mean = views[turns, everyone].mean(axis=0)
        return float(np.stack([_view(mean[None], number)[0] for number in range(8)]).var(axis=0).mean())

    by_chance = np.mean([spread(rng.integers(8, size=len(thumbnails))) for _ in range(PERMUTATIONS)])
    return bool(spread(np.zeros(len(thumbnails), int)) - by_chance > DIRECTIONAL)


def _view(images: np.ndarray, number: int) -> np.ndarray:
    turned = np.rot90(images, number % 4, axes=(1, 2))
    return turned[:, :, ::-1] if number >= 4 else turned


def listed_counts(table: Table) -> Sequence[str]:
    """Count samples, patients, classes and sites, in words."""
    frame, task = table.frame, table.task
    patients = frame["patient"].nunique()
    words = [f"{len(frame)} samples of {patients} patients"]
    if CASE in frame:
        counts = np.bincount(image_positions(table))
        least, most = counts.min(), counts.max()
        images = f"{most} image{'' if most == 1 else 's'}" if least == most else f"{least} to {most} images"
        words = [f"{len(frame)} cases of {images}, of {patients} patients"]
    if isinstance(task, Targets):
        words += [f"{name}: {int(known.sum())} known" for name, known in task.known(table.targets).items()]
        task = replace(task, classes=())
    elif task.timed:
        words.append(f"{task.classes[0]}: {times_in_words(table.targets)}")
        task = replace(task, classes=())
    elif task.numeric:
        words.append(f"{task.classes[0]}: {table.targets.mean():.4g} ± {table.targets.std():.4g}")
        task = replace(task, classes=())
    for number, name in enumerate(task.classes):
        count = int((table.targets == number).sum() if task.exclusive else np.nansum(table.targets[:, number]))
        words.append(f"{name}: {count}")
    if "site" in frame:
        words.append(f"{frame['site'].nunique()} sites")
    return words
