"""Tests of the saliency maps of one run on test images: curves, random weights, known positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from softfree.core.environment import best_device
from softfree.core.precision import products_in
from softfree.core.progress import tracked
from softfree.data.table import Table
from softfree.inference.run import Run
from softfree.models import VisionTransformer
from softfree.saliency.activations import classifier
from softfree.saliency.log_odds import LogOdds
from softfree.saliency.maps import explain_tensor
from softfree.saliency.options import MapMethod
from softfree.saliency.samples import Sample, SampleOpener
from softfree.saliency.sanity_checks import ALL, HEAD, cascade, similarity
from softfree_lab.studies.faithfulness import Perturbed, without_tokens
from softfree_lab.studies.localization import localization_area, on_finding, pointing_game, visible_tokens
from softfree_lab.studies.options import ExplainStudyOptions
from softfree_runtime.core.errors import ReadError, UserError, unknown_name
from softfree_runtime.core.outputs import probabilities

RANDOM = "random"
"""Name of the random orders in rows and curves."""
SURE = 0.9
"""Probability from which the map of a class should sum to more than zero."""


@dataclass(frozen=True)
class ImageResults:
    """The results of one run.

    Attributes:
        rows: One row per image and method, see :class:`~softfree_lab.studies.explain.MapStudy`.
        curves: (shares, deletion, insertion) of each method averaged over images, and of random orders.
        unreadable: One line per unreadable image, without its file, whose name may be a patient's.
    """

    rows: list[dict[str, Any]]
    curves: dict[str, tuple[np.ndarray, ...]]
    unreadable: list[str]


def choose(table: Table, count: int, target: str | None = None) -> list[int]:
    """Choose test images: the first of each class, then the second of each class, and so on; return sorted indices.

    Args:
        table: The test rows.
        count: Maximum number of images.
        target: Only images that have this class.

    Raises:
        UserError: An unknown class, or an ordinal task.
    """
    targets = np.asarray(table.targets)
    if table.task.ordered:
        raise UserError("this study compares probabilities of single classes, but the maps of an ordinal task explain "
                        "how far a sample reaches: use a run on classes without an order")  # fmt: skip
    if target is not None and target not in table.task.classes:
        raise unknown_name("class", target, table.task.classes)
    index = None if target is None else table.task.classes.index(target)
    if not table.task.exclusive:
        return np.flatnonzero(np.ones(len(targets)) if index is None else targets[:, index] == 1)[:count].tolist()
    rank = pd.Series(targets).groupby(targets).cumcount().to_numpy()
    order = np.lexsort((targets, rank))
    return sorted(order[(targets[order] == index) | (index is None)][:count].tolist())


def methods_of(run: Run, options: ExplainStudyOptions) -> list[MapMethod]:
    """Return the methods that apply to a run: without the split if the model's logits are not sums over tokens.

    Raises:
        UserError: A run without a grid of tokens on images, or no method is left.
    """
    split = classifier(run.model).pool != "token"
    methods = [method for method in dict.fromkeys(options.methods) if method != "split" or split]
    if not isinstance(run.model, VisionTransformer):
        raise UserError(f"{run.folder} is not a vision transformer for images: expected a run of a *_vit_* model")
    if not methods:
        raise UserError(f"{run.folder} has no split, because its logits are not sums over tokens: add other --methods")
    return methods


def evaluate_images(run: Run, table: Table, options: ExplainStudyOptions) -> ImageResults:
    """Explain test images of a run with each method, and test the maps."""
    model = cast(VisionTransformer, run.model)
    model.to(best_device())
    opener = SampleOpener(run.preprocessing, model)
    images: list[_Image] = []
    unreadable = []
    for number in _progress(choose(table, options.count, options.target), run, options):
        entry = table.frame.iloc[number]
        frame = entry.get("frame")
        try:
            sample = opener.single(entry["file"], None if pd.isna(frame) else int(frame))
            if not isinstance(sample.tensor, Tensor):
                raise ReadError("too large to be read at once", "too_large", path=entry["file"])
        except ReadError as error:
            unreadable.append(f"row {entry['row']} of the table: {error.status}")
            continue
        images.append(_Image(run, options, sample, entry))
        truth = int(table.targets[number]) if table.task.exclusive else -1
        if (
            truth in table.task.scored
            and {"x", "y"} <= set(entry.index)
            and not pd.isna([entry["x"], entry["y"]]).any()
        ):
            images[-1].locate(truth)
    first_images = images[: options.randomized]
    for name, randomized in cascade(model, options.seed) if first_images else ():
        if name in (HEAD, ALL):
            for image in first_images:
                image.compare(randomized, name)
    return ImageResults([row for image in images for row in image.rows.values()], _mean_curves(images), unreadable)


def _progress(numbers: list[int], run: Run, options: ExplainStudyOptions) -> Iterator[int]:
    yield from tracked(numbers, f"Explaining with {run.folder.name}", shown=options.progress)


def _mean_curves(images: list[_Image]) -> dict[str, tuple[np.ndarray, ...]]:
    methods = list(images[0].curves) if images else []
    return {name: tuple(np.mean([image.curves[name] for image in images], axis=0)) for name in methods}


class _Image:
    """An image with the maps of the requested or else predicted class, their curves and rows."""

    def __init__(self, run: Run, options: ExplainStudyOptions, sample: Sample, entry: pd.Series) -> None:
        self.run, self.options, self.sample, self.entry = run, options, sample, entry
        assert isinstance(sample.tensor, Tensor)
        self.tensor = sample.tensor
        first, *others = methods_of(run, options)
        self.maps = {first: explain_tensor(run, self.tensor, first, target=options.target)}
        self.target = self.maps[first].target
        self.maps |= {method: explain_tensor(run, self.tensor, method, target=self.target) for method in others}
        self.curves: dict[str, tuple[np.ndarray, ...]] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        self._compute_curves()

    def _compute_curves(self) -> None:
        """Compute curves and areas of each map and of random orders."""
        options, seed = self.options, self.options.seed + int(self.entry["row"])
        patch = (cast(VisionTransformer, self.run.model).patch_size,) * 2
        blank = without_tokens(self.tensor, patch, options.removal)
        grid = next(iter(self.maps.values())).values.shape
        perturbed = Perturbed(
            self._score, self.tensor, blank, patch, grid, steps=options.steps, batch_size=options.batch_size
        )
        chance = perturbed.random(options.orders, seed)
        self.curves[RANDOM] = (perturbed.shares, chance[::-1], chance)
        chance_area = perturbed.area(chance)
        head: dict[str, Any] = {"row": int(self.entry["row"]), "patient": int(self.entry["patient"])}
        head["target"] = self.run.task.classes[self.target]
        sure = torch.tensor(next(iter(self.maps.values())).log_odds).sigmoid() >= SURE
        for method, saliency in self.maps.items():
            curves = perturbed.curves(saliency.values, seed)
            self.curves[method] = (perturbed.shares, *curves)
            areas = {name: perturbed.area(curve) for name, curve in curves._asdict().items()}
            self.rows[method] = (
                head
                | {"method": method}
                | {f"{name}_area": area for name, area in areas.items()}
                | {"random_area": chance_area}
                | {name: area - chance_area for name, area in areas.items()}
            )
            if sure and saliency.class_specific:
                self.rows[method]["net"] = float(saliency.values.sum() > 0)

    def _score(self, images: Tensor) -> np.ndarray:
        """Return the calibrated probability of the class."""
        device = next(self.run.model.parameters()).device
        with torch.inference_mode(), products_in(self.options.precision, device):
            logits = self.run.model(images.to(device)).double().cpu().numpy()
        return probabilities(logits, self.run.task, self.run.calibration.temperature)[:, self.target]

    def locate(self, truth: int) -> None:
        """Compare the maps of the true class with the position of its finding, whatever the run predicts."""
        token_grid, radius = self.sample.token_grid, self.entry.get("radius")
        radius = self.options.radius if pd.isna(radius) else float(radius)
        for method, saliency in self.maps.items():
            if saliency.target != truth:
                saliency = explain_tensor(self.run, self.tensor, method, target=truth)
            grid = (saliency.values.shape[0], saliency.values.shape[1])
            finding = on_finding(token_grid, grid, self.entry["x"], self.entry["y"], radius)
            visible = visible_tokens(token_grid, grid)
            self.rows[method] |= {
                "pointing": pointing_game(saliency.values, finding, visible),
                "localization": localization_area(saliency.values, finding, visible),
                "chance": float(finding[visible].mean()),
            }

    def compare(self, randomized: nn.Module, name: str) -> None:
        """Compute the maps of a model with shuffled weights and correlate them with the original ones."""
        for method, saliency in self.maps.items():
            other = explain_tensor(randomized, self.tensor, method, target=self.target, odds=LogOdds.of(self.run))
            self.rows[method][name] = similarity(saliency.values, other.values)
