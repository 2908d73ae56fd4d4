"""What the maps of one run reach on test images: curves, random weights, known places."""

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
from softfree_lab.studies.localization import localization_area, on_finding, pointing_game, seen_tokens
from softfree_lab.studies.options import ExplainStudyOptions
from softfree_runtime.core.errors import ReadError, UserError, unknown_name
from softfree_runtime.core.outputs import probabilities

RANDOM = "random"
"""What rows and curves call the random orders."""
SURE = 0.9
"""Probability from which a map of the class should be for it as a whole."""


@dataclass(frozen=True)
class Tested:
    """What was found with one run.

    Attributes:
        rows: A row each image and method, see :class:`~softfree_lab.studies.explain.MapStudy`.
        curves: (shares, deletion, insertion) of each method averaged over images, and of random orders.
        unreadable: A line for each image that was left out; no file is named, for that may be a patient's name.
    """

    rows: list[dict[str, Any]]
    curves: dict[str, tuple[np.ndarray, ...]]
    unreadable: list[str]


def choose(table: Table, count: int, target: str | None = None) -> list[int]:
    """Choose test images: the first of each class, then the second of each class, and so on; numbers in order.

    Args:
        table: The test rows.
        count: At most so many.
        target: Only images that have this class.

    Raises:
        UserError: A class that there is not.
    """
    targets = np.asarray(table.targets)
    if target is not None and target not in table.task.classes:
        raise unknown_name("class", target, table.task.classes)
    index = None if target is None else table.task.classes.index(target)
    if not table.task.exclusive:
        return np.flatnonzero(np.ones(len(targets)) if index is None else targets[:, index] == 1)[:count].tolist()
    place = pd.Series(targets).groupby(targets).cumcount().to_numpy()
    order = np.lexsort((targets, place))
    return sorted(order[(targets[order] == index) | (index is None)][:count].tolist())


def methods_of(run: Run, options: ExplainStudyOptions) -> list[MapMethod]:
    """Leave out the split where the model's logits are no sums over tokens.

    Raises:
        UserError: A run without a grid of tokens on images, or none of the methods is left.
    """
    split = classifier(run.model).pool != "token"
    found = [method for method in dict.fromkeys(options.methods) if method != "split" or split]
    if not isinstance(run.model, VisionTransformer):
        raise UserError(f"{run.folder} is no vision transformer on images: expected a run of a *_vit_* model")
    if not found:
        raise UserError(f"{run.folder} has no split, as its logits are no sums over tokens: expected further --methods")
    return found


def test_images(run: Run, table: Table, options: ExplainStudyOptions) -> Tested:
    """Explain test images of a run with each method and test the maps."""
    model = cast(VisionTransformer, run.model)
    model.to(best_device())
    opener = SampleOpener(run.preprocessing, model)
    found: list[_Image] = []
    unreadable = []
    for number in _progress(choose(table, options.count, options.target), run, options):
        entry = table.frame.iloc[number]
        frame = entry.get("frame")
        try:
            sample = opener(entry["file"], None if pd.isna(frame) else int(frame))
            if not isinstance(sample.tensor, Tensor):
                raise ReadError(f"{entry['file']}: too long to be read at once", "too_large")
        except ReadError as error:
            unreadable.append(f"row {entry['row']} of the table: {error.status}")
            continue
        found.append(_Image(run, options, sample, entry))
        truth = int(table.targets[number]) if table.task.exclusive else -1
        if (
            truth in table.task.scored
            and {"x", "y"} <= set(entry.index)
            and not pd.isna([entry["x"], entry["y"]]).any()
        ):
            found[-1].locate(truth)
    kept = found[: options.randomized]
    for name, changed in cascade(model, options.seed) if kept else ():
        if name in (HEAD, ALL):
            for image in kept:
                image.compare(changed, name)
    return Tested([row for image in found for row in image.rows.values()], _mean_curves(found), unreadable)


def _progress(numbers: list[int], run: Run, options: ExplainStudyOptions) -> Iterator[int]:
    yield from tracked(numbers, f"Explaining with {run.folder.name}", shown=options.progress)


def _mean_curves(found: list[_Image]) -> dict[str, tuple[np.ndarray, ...]]:
    methods = list(found[0].curves) if found else []
    return {name: tuple(np.mean([image.curves[name] for image in found], axis=0)) for name in methods}


class _Image:
    """An image with the maps of the class that is asked for or else predicted, their curves and rows."""

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
        self._follow()

    def _follow(self) -> None:
        """Curves and areas of each map, and of random orders."""
        options, seed = self.options, self.options.seed + int(self.entry["row"])
        patch = (cast(VisionTransformer, self.run.model).patch_size,) * 2
        blank = without_tokens(self.tensor, patch, options.removal)
        grid = next(iter(self.maps.values())).values.shape
        how = {"steps": options.steps, "batch_size": options.batch_size}
        perturbed = Perturbed(self._score, self.tensor, blank, patch, grid, **how)
        chance = perturbed.random(options.orders, seed)
        self.curves[RANDOM] = (perturbed.shares, chance[::-1], chance)
        base = perturbed.area(chance)
        of: dict[str, Any] = {"row": int(self.entry["row"]), "patient": int(self.entry["patient"])}
        of["target"] = self.run.task.classes[self.target]
        sure = torch.tensor(next(iter(self.maps.values())).log_odds).sigmoid() >= SURE
        for method, found in self.maps.items():
            curves = perturbed.curves(found.values, seed)
            self.curves[method] = (perturbed.shares, *curves)
            areas = {name: perturbed.area(curve) for name, curve in curves._asdict().items()}
            whole = {f"{name}_area": area for name, area in areas.items()} | {"random_area": base}
            self.rows[method] = of | {"method": method} | whole | {name: area - base for name, area in areas.items()}
            if sure and found.class_specific:
                self.rows[method]["net"] = float(found.values.sum() > 0)

    def _score(self, images: Tensor) -> np.ndarray:
        """The calibrated probability of the class."""
        device = next(self.run.model.parameters()).device
        with torch.inference_mode(), products_in(self.options.precision, device):
            logits = self.run.model(images.to(device)).double().cpu().numpy()
        return probabilities(logits, self.run.task, self.run.calibration.temperature)[:, self.target]

    def locate(self, truth: int) -> None:
        """Hold the maps of the class that is there against its place, whatever the run predicts."""
        places, radius = self.sample.token_grid, self.entry.get("radius")
        radius = self.options.radius if pd.isna(radius) else float(radius)
        for method, found in self.maps.items():
            if found.target != truth:
                found = explain_tensor(self.run, self.tensor, method, target=truth)
            grid = (found.values.shape[0], found.values.shape[1])
            finding = on_finding(places, grid, self.entry["x"], self.entry["y"], radius)
            seen = seen_tokens(places, grid)
            self.rows[method] |= {
                "pointing": pointing_game(found.values, finding, seen),
                "localization": localization_area(found.values, finding, seen),
                "chance": float(finding[seen].mean()),
            }

    def compare(self, changed: nn.Module, name: str) -> None:
        """Make the maps again with a model whose weights were shuffled."""
        for method, found in self.maps.items():
            again = explain_tensor(changed, self.tensor, method, target=self.target, odds=LogOdds.of(self.run))
            self.rows[method][name] = similarity(found.values, again.values)
