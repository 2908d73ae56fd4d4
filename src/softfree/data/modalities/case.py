"""Preprocessing and augmentation of cases of several images or volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from softfree.data.modalities.base import Augmentation, Preprocessing
from softfree.data.modalities.registry import modality_of, preprocessing_from_config, preprocessing_to_config
from softfree.data.variables import describe_variables
from softfree_runtime.core.errors import UserError, listed
from softfree_runtime.preprocessing.case import HEADER, NumpyCasePreprocessing
from softfree_runtime.sources.sample_source import Case, CaseFile, SampleSource, files_of, sample_source

if TYPE_CHECKING:
    from softfree.core.options import TrainOptions

UNKNOWN_VIEW = 0.1  # share of images whose view it hides, so that a model also works without views


@dataclass(frozen=True)
class CasePreprocessing(NumpyCasePreprocessing):
    """Deterministic preprocessing of cases, stored with a run.

    Attributes:
        view_dropout: Share of the images that training leaves out, so that the model also works with fewer.
        variable_dropout: Share of the clinical variables that training hides, and of the cases of which it hides all.
        image, shape, views, time_scale, variables: See the base class.
    """

    view_dropout: float = 0.0
    variable_dropout: float = 0.0

    @cached_property
    def images(self) -> Preprocessing:
        """The preprocessing of each image."""
        return preprocessing_from_config(self.image)

    @classmethod
    def from_options(cls, options: TrainOptions, sources: Sequence[SampleSource]) -> CasePreprocessing:
        """Create the preprocessing of the images of ``sources``, with their views and times.

        Raises:
            UserError: As for single images; or images that keep their own size.
        """
        files = [file for source in sources if isinstance(source, Case) for file in source.files]
        single = modality_of(options).preprocessing_class()
        images: Preprocessing = single.from_options(options, [sample_source([file]) for file in files])
        arguments = images.model_arguments()
        sides, channels = arguments["img_size"], arguments["in_chans"]
        if images.sample_bytes() is None:
            raise UserError("--resize-mode native: the images of a case share one size; choose another")
        shape = [channels, *(list(sides) if isinstance(sides, Sequence) else [sides, sides])]
        views = sorted({file.view for file in files if file.view})
        variables = describe_variables(options.variables or (), options.categorical or (), sources)
        dropout = options.view_dropout, options.variable_dropout
        return cls(preprocessing_to_config(images), shape, views, _longest_time(sources), variables, *dropout)

    def small_copy(self, sample: torch.Tensor) -> np.ndarray | None:
        """Return the mean of the small copies of the images of a case (R, F + V + 3)."""
        copies = [copy for image in self.pixels(sample) if (copy := self.images.small_copy(image)) is not None]
        return np.mean(copies, axis=0) if copies else None

    def pixels(self, sample: torch.Tensor) -> torch.Tensor:
        """Return the images (R, C, H, W) of a case (R, F + V + 3)."""
        return sample[:, : self.image_values].unflatten(1, tuple(self.shape))

    def variable_values(self, sample: torch.Tensor) -> torch.Tensor:
        """Return the clinical variables (R, V) of a case (R, F + V + 3), the same for each image."""
        return sample[:, self.image_values : self.in_features]

    def augmentation(self) -> CaseAugmentation | None:
        """Return the augmentation of cases."""
        return CaseAugmentation(self, self.images.augmentation())

    def augmentation_of_views(self) -> CaseAugmentation | None:
        """Return the augmentation for prediction, which hides nothing; None if images have none."""
        images = self.images.augmentation()
        whole = replace(self, view_dropout=0.0, variable_dropout=0.0)
        return None if images is None else CaseAugmentation(whole, images, unknown_view=0.0)

    def model_arguments(self) -> dict[str, Any]:
        """Return the arguments of the model of a single image, and those of its cases without the variables."""
        case = {"shape": list(self.shape), "views": len(self.views), "timed": self.time_scale is not None}
        return self.images.model_arguments() | {"case": case}

    def sample_bytes(self) -> int | None:
        """Return None: cases differ in size."""
        return None

    def in_words(self) -> list[str]:
        """Describe the preprocessing in sentences."""
        views = f"with the views {', '.join(self.views)}" if self.views else "without views"
        times = "" if self.time_scale is None else f", and times in units of {self.time_scale:g}"
        variables = listed([variable.name for variable in self.clinical_variables])
        beside = [f"Clinical variables beside the images: {variables}."] if variables else []
        return [f"Cases: all images of a sample together, {views}{times}.", *beside, *self.images.in_words()]


def _longest_time(sources: Sequence[SampleSource]) -> float | None:
    """Return the longest time between two images of a case; None if no case has two times."""
    longest = 0.0
    for source in sources:
        times = [file.time for file in files_of(source) if isinstance(file, CaseFile) and file.time is not None]
        longest = max(longest, max(times) - min(times)) if times else longest
    return longest or None


class CaseAugmentation:
    """Augment each image of a case, leave some out, and hide the views of some, and some clinical variables.

    Args:
        preprocessing: Of the cases.
        images: Augmentation of a single image, if any.
        unknown_view: Share of images whose view is hidden.
    """

    def __init__(
        self, preprocessing: CasePreprocessing, images: Augmentation | None, unknown_view: float = UNKNOWN_VIEW
    ) -> None:
        self.preprocessing, self.images, self.unknown_view = preprocessing, images, unknown_view

    def __call__(self, case: torch.Tensor, seed: int) -> torch.Tensor:
        """Augment a case (R, F + V + 3); equal seeds give equal results in any process and order."""
        random = np.random.default_rng(seed)
        kept = random.random(len(case)) >= self.preprocessing.view_dropout
        kept[random.integers(len(case))] = True  # keep at least one image
        hidden, seeds = random.random(len(case)) < self.unknown_view, random.integers(2**31, size=len(case))
        case = case.clone()
        for row, image, own in zip(case, self.preprocessing.pixels(case), seeds.tolist(), strict=True):
            if self.images is not None:
                row[: image.numel()] = self.images(image, own).flatten()
        case[np.flatnonzero(hidden), -HEADER] = 0
        share, variables = self.preprocessing.variable_dropout, self.preprocessing.variable_values(case)
        unknown = (random.random(variables.shape[1]) < share) | (random.random() < share)
        variables[:, np.flatnonzero(unknown)] = torch.nan
        return case[np.flatnonzero(kept)]

    def in_words(self) -> str:
        """Describe the augmentation, for people."""
        own = "" if self.images is None else f"{self.images.in_words()}, of each image; "
        left_out = f"{100 * self.preprocessing.view_dropout:g} % of the images left out"
        words = f"{own}{left_out}, {100 * self.unknown_view:g} % of the views hidden"
        if not self.preprocessing.variables:
            return words
        return f"{words}, {100 * self.preprocessing.variable_dropout:g} % of the clinical variables hidden"
