"""``softfree-lab study unusual``: how often held-out images and images of other kinds are called unusual."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import Tensor

from softfree.core.progress import tracked
from softfree.data.dataset import SampleDataset
from softfree.data.inputs import find_inputs
from softfree.data.table import Table
from softfree.evaluation.conformal import Coverage
from softfree.inference.run import Run
from softfree.inference.unusual import TrainingDistribution
from softfree.models.token_mean import token_mean
from softfree.reporting.coverage import coverage_of
from softfree.reporting.scoring import own_table, predict_rows, scores_of, stored_rows
from softfree_lab.records import markdown_table, write_csv, write_machine
from softfree_lab.studies.options import UnusualOptions
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.core.files import write_atomically
from softfree_runtime.readers import DecodedImage, read_image
from softfree_runtime.sources.sample_source import file_of

THUMBNAIL = 16
"""Side of the thumbnail that is compared with the features of the model."""
GRAYS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Gray levels of blank images; each is used with and without noise."""
TOKENS, POOLED, THUMBNAILS = "tokens, middle block", "features before the head", f"{THUMBNAIL} x {THUMBNAIL} pixels"


@dataclass(frozen=True)
class Unusual:
    """The result of the study.

    Attributes:
        rows: One row per set of images and description: ``set``, ``description``, ``n``, ``unusual`` (share), ``low``
            and ``high`` (95 % interval), ``distance`` (median).
        coverage: How conformal sets work on the held-out rows; None for a run without them.
        skipped: Number of unreadable images of each set.
        rate: Nominal share of ordinary images that are called unusual.
    """

    rows: pd.DataFrame
    coverage: Coverage | None
    skipped: dict[str, int]
    rate: float

    def to_dict(self) -> dict[str, Any]:
        """Return rows and coverage, for JSON."""
        rows = json.loads(self.rows.to_json(orient="records"))
        coverage = None if self.coverage is None else self.coverage.to_dict()
        return {"rate": self.rate, "rows": rows, "coverage": coverage}

    def to_markdown(self) -> str:
        """Lay out two tables."""
        lines = [
            "Share of images whose distance from the training images is above the 95th percentile of the validation"
            f" images (nominal rate {self.rate * 100:.3g} %), by what describes an image; softfree uses the first.",
            "",
        ]
        names = list(dict.fromkeys(self.rows["description"]))
        table = []
        for name, rows in self.rows.groupby("set", sort=False):
            by_name = rows.set_index("description")
            first = by_name.iloc[0]
            shares = [f"{by_name.loc[kind, 'unusual']:.2f}" for kind in names]
            shares[0] += f" [{first['low']:.2f}, {first['high']:.2f}]"
            table.append([name, first["n"], *shares, f"{first['distance']:.2f}"])
        lines.append(markdown_table(["images", "n", *names, "median distance"], table))
        lines += [f"{count} of {name} cannot be read." for name, count in self.skipped.items() if count]
        if self.coverage is not None:
            lines += ["", *_coverage_lines(self.coverage)]
        return "\n".join(lines).rstrip() + "\n"


def study_unusual(options: UnusualOptions, folder: str | Path) -> Unusual:
    """Measure the share of unusual images, and the coverage of conformal sets on held-out rows.

    Writes ``unusual.csv``, ``unusual.md`` and ``machine.json`` into ``options.out``.

    Raises:
        UserError: A run without distribution, or sets that cannot be opened.
    """
    run = Run.load(folder)
    run.image_preprocessing  # noqa: B018 raises an error for other samples
    if run.members or not run.distributions:
        raise UserError(f"{folder} has no distribution of its training images; train one with this version")
    table = own_table(run, options.table, how="softfree-lab study unusual RUN --table TABLE")
    sets = {name: _opener(path, options.count) for name, path in _named(options.sets)}
    describe = _Describer(run, options.batch_size)
    parts = {split: table.where(split) for split in ("train", "val", "test")}
    described = {split: describe.table(rows, options.progress) for split, rows in parts.items()}
    patients = parts["val"].frame["patient"].to_numpy()
    distributions = {
        name: TrainingDistribution.fit(described["train"][name], described["val"][name], patients)
        for name in described["val"]
    }
    distributions[TOKENS] = run.distributions[0]  # that of the run itself
    held = parts["test"].take(_evenly(len(parts["test"].frame), options.count))
    sets = {"held-out images": lambda: _images(held), **_changed(held), **sets}
    rows, skipped = [], {}
    for name, open_images in tracked(sets.items(), "Sets", total=len(sets), shown=options.progress):
        features = describe.images(list(open_images()))
        skipped[name] = int(np.isnan(features[TOKENS]).any(axis=1).sum())
        rows += [_row(name, kind, fitted, features[kind]) for kind, fitted in distributions.items() if fitted]
    result = Unusual(pd.DataFrame(rows), _coverage(run, parts["test"]), skipped, run.distributions[0].rate)
    write_csv(options.out / "unusual.csv", result.rows, "%.4g")
    write_atomically(options.out / "unusual.md", result.to_markdown())
    write_machine(options.out)
    return result


class _Describer:
    """Describes images by features of a run's model, (n, C) for each name; NaN for unreadable images."""

    def __init__(self, run: Run, batch_size: int) -> None:
        self.run, self.batch_size = run, batch_size

    def table(self, table: Table, progress: bool) -> dict[str, np.ndarray]:
        """Describe the images of a table."""
        return self.images(list(tracked(_images(table), "Images", total=len(table.frame), shown=progress)))

    def images(self, images: list[DecodedImage | ReadError]) -> dict[str, np.ndarray]:
        """Describe decoded images."""
        dataset = SampleDataset(images, None, self.run.preprocessing)
        samples: dict[int, Tensor] = {}
        for number in range(len(images)):
            if isinstance(images[number], DecodedImage):
                samples[number] = dataset[number]["image"]
        described: dict[str, np.ndarray] = {}
        numbers = list(samples)
        for start in range(0, len(numbers), self.batch_size):
            chunk = numbers[start : start + self.batch_size]
            for name, values in self._features(torch.stack([samples[number] for number in chunk])).items():
                if name not in described:
                    described[name] = np.full((len(images), values.shape[1]), np.nan, dtype=np.float32)
                described[name][chunk] = values.numpy()
        return described

    @torch.inference_mode()
    def _features(self, batch: Tensor) -> dict[str, Tensor]:
        model: Any = self.run.model
        pooled: list[Tensor] = []
        hook = model.head.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0]))
        try:
            with token_mean(model) as means:
                model(batch)
        finally:
            hook.remove()
        thumbnails = F.adaptive_avg_pool2d(batch, THUMBNAIL).flatten(1)
        return {TOKENS: means[0], POOLED: pooled[0].float(), THUMBNAILS: thumbnails}


def _images(table: Table) -> Iterator[DecodedImage | ReadError]:
    return _decoded(zip(table.sources, table.frames, strict=True))


def _decoded(sources: Any) -> Iterator[DecodedImage | ReadError]:
    """Decode images; the error in place of an unreadable one."""
    for source, frame in sources:
        try:
            yield read_image(file_of(source).path, frame=frame)
        except ReadError as error:
            yield error


def _named(sets: list[str]) -> Iterator[tuple[str, Path]]:
    for text in sets:
        name, equals, path = text.partition("=")
        if not equals or not Path(path).exists():
            raise UserError(f"--sets {text}: expected NAME=PATH of a file, folder or table of images")
        yield name, Path(path)


def _opener(path: Path, count: int) -> Callable[[], Iterator[DecodedImage | ReadError]]:
    samples = [(source, frame) for _, source, frame in find_inputs([path], None)]
    return lambda: _decoded(samples[number] for number in _evenly(len(samples), count))


def _changed(table: Table) -> dict[str, Callable[[], Iterator[DecodedImage | ReadError]]]:
    """Return the held-out images changed as they must not be, and blank ones."""

    def changed(change: Callable[[np.ndarray, float, float], np.ndarray]) -> Callable[[], Iterator[Any]]:
        def images() -> Iterator[DecodedImage | ReadError]:
            for image in _images(table):
                yield image if isinstance(image, ReadError) else _with_pixels(image, change)

        return images

    return {
        "black and white exchanged": changed(lambda pixels, low, high: low + high - pixels),
        "a quarter turn": changed(lambda pixels, *_: np.rot90(pixels).copy()),
        "upside down": changed(lambda pixels, *_: pixels[::-1].copy()),
        "blank": lambda: iter(_blank(0.0)),
        "blank with noise": lambda: iter(_blank(4.0)),
    }


def _with_pixels(image: DecodedImage, change: Callable[[np.ndarray, float, float], np.ndarray]) -> DecodedImage:
    return replace(image, pixels=change(np.asarray(image.pixels, dtype=np.float32), image.low, image.high))


def _blank(noise: float) -> list[DecodedImage]:
    """Return blank images of several gray levels, with Gaussian noise of this standard deviation in 8-bit steps."""
    rng = np.random.default_rng(0)
    pixels = [255 * gray + noise * rng.normal(size=(512, 512, 1)) for gray in GRAYS]
    return [DecodedImage(p.clip(0, 255).round().astype(np.uint8), 0.0, 255.0, None, (), "blank") for p in pixels]


def _evenly(total: int, count: int) -> np.ndarray:
    """Return up to ``count`` of the numbers below ``total``."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(int))


def _row(name: str, kind: str, fitted: TrainingDistribution, features: np.ndarray) -> dict[str, Any]:
    distances = fitted.distance(features[np.isfinite(features).all(axis=1)])
    found = int((distances > 1).sum())
    low, high = binomtest(found, len(distances)).proportion_ci(method="exact")
    return {
        "set": name,
        "description": kind,
        "n": len(distances),
        "unusual": found / len(distances),
        "low": float(low),
        "high": float(high),
        "distance": float(np.median(distances)),
    }


def _coverage(run: Run, table: Table) -> Coverage | None:
    frame = stored_rows(run, table)
    frame = predict_rows(run, table) if frame is None else frame
    return coverage_of(run, frame, scores_of(frame, run))


def _coverage_lines(coverage: Coverage) -> Iterator[str]:
    yield f"Conformal sets for a coverage of {coverage.target * 100:g} % on the held-out images:"
    yield ""
    rows = [
        [
            row.name, row.n, row.patients, f"{row.covered:.2f} [{row.low:.2f}, {row.high:.2f}]",
            row.decided, f"{row.right:.2f}",
        ]
        for row in (*coverage.classes, coverage.all)
    ]  # fmt: skip
    yield markdown_table(["class", "n", "patients", "class in the set", "one class in the set", "right of these"], rows)
