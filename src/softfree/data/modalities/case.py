"""Preprocessing and augmentation of cases of several images or volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from softfree.data.modalities.base import Augmentation, Preprocessing
from softfree.data.modalities.registry import modality_of, preprocessing_from_config, preprocessing_to_config
from softfree_runtime.core.errors import UserError
from softfree_runtime.preprocessing.case import HEADER, VIEW, NumpyCasePreprocessing
from softfree_runtime.sources.cases import known_views, longest_time
from softfree_runtime.sources.sample_source import Case, SampleSource, sample_source

if TYPE_CHECKING:
    import torch

    from softfree.core.options import TrainOptions

UNKNOWN_VIEW = 0.1  # share of images whose view it hides, so that a model also works without views


@dataclass(frozen=True)
class CasePreprocessing(NumpyCasePreprocessing):
    """Deterministic preprocessing of cases, stored with a run.

    Attributes:
        view_dropout: Share of the images that training leaves out, so that the model also works with fewer.
        image, shape, views, time_scale: See the base class.
    """

    view_dropout: float = 0.0

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
        images: Preprocessing = single.from_options(options, [sample_source(file) for file in files])
        arguments = images.model_arguments()
        sides, channels = arguments["img_size"], arguments["in_chans"]
        if images.sample_bytes() is None:
            raise UserError("--resize-mode native: the images of a case share one size; choose another")
        shape = [channels, *(list(sides) if isinstance(sides, Sequence) else [sides, sides])]
        scale = longest_time(sources)
        return cls(preprocessing_to_config(images), shape, known_views(sources), scale, options.view_dropout)

    def small_copy(self, sample: torch.Tensor) -> np.ndarray | None:
        """Return the mean of the small copies of the images of a case (R, F + 3)."""
        copies = [copy for image in self.pixels(sample) if (copy := self.images.small_copy(image)) is not None]
        return np.mean(copies, axis=0) if copies else None

    def pixels(self, sample: torch.Tensor) -> torch.Tensor:
        """Return the images (R, C, H, W) of a case (R, F + 3)."""
        return sample[:, :-HEADER].unflatten(1, tuple(self.shape))

    def augmentation(self) -> CaseAugmentation | None:
        """Return the augmentation of cases."""
        return CaseAugmentation(self, self.images.augmentation())

    def model_arguments(self) -> dict[str, Any]:
        """Return the arguments of the model of a single image, and those of its cases."""
        case = {"shape": list(self.shape), "views": len(self.views), "timed": self.time_scale is not None}
        return self.images.model_arguments() | {"case": case}

    def sample_bytes(self) -> int | None:
        """Return None: cases differ in size."""
        return None

    def in_words(self) -> list[str]:
        """Describe the preprocessing in sentences."""
        views = f"with the views {', '.join(self.views)}" if self.views else "without views"
        times = "" if self.time_scale is None else f", and times in units of {self.time_scale:g}"
        return [f"Cases: all images of a sample together, {views}{times}.", *self.images.in_words()]


class CaseAugmentation:
    """Augment each image of a case, leave some out, and hide the views of some.

    Args:
        preprocessing: Of the cases.
        images: Augmentation of a single image, if any.
    """

    def __init__(self, preprocessing: CasePreprocessing, images: Augmentation | None) -> None:
        self.preprocessing, self.images = preprocessing, images

    def __call__(self, case: torch.Tensor, seed: int) -> torch.Tensor:
        """Augment a case (R, F + 3); equal seeds give equal results in any process and order."""
        random = np.random.default_rng(seed)
        kept = random.random(len(case)) >= self.preprocessing.view_dropout
        kept[random.integers(len(case))] = True  # keep at least one image
        hidden, seeds = random.random(len(case)) < UNKNOWN_VIEW, random.integers(2**31, size=len(case))
        case = case.clone()
        for row, image, own in zip(case, self.preprocessing.pixels(case), seeds.tolist(), strict=True):
            if self.images is not None:
                row[:-HEADER] = self.images(image, own).flatten()
        case[np.flatnonzero(hidden), VIEW] = 0
        return case[np.flatnonzero(kept)]

    def in_words(self) -> str:
        """Describe the augmentation, for people."""
        own = "" if self.images is None else f"{self.images.in_words()}, of each image; "
        left_out = f"{100 * self.preprocessing.view_dropout:g} % of the images left out"
        return f"{own}{left_out}, {100 * UNKNOWN_VIEW:g} % of the views hidden"
