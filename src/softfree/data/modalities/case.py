"""Preprocessing and augmentation of cases of several images or volumes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from softfree.data.modalities.base import Augmentation, Preprocessing
from softfree.data.modalities.registry import preprocessing_from_config, preprocessing_to_config
from softfree.data.modalities.views import view_settings
from softfree.data.variables import describe_variables
from softfree_runtime.core.errors import UserError
from softfree_runtime.preprocessing.case import TOKENIZER, VIEW, NumpyCasePreprocessing
from softfree_runtime.preprocessing.variables import hidden as hidden_variables
from softfree_runtime.sources.cases import known_views, longest_time
from softfree_runtime.sources.sample_source import Case, SampleSource

if TYPE_CHECKING:
    import torch

    from softfree.core.options import TrainOptions

UNKNOWN_VIEW = 0.1  # share of images whose view it hides, so that a model also works without views


@dataclass(frozen=True)
class CasePreprocessing(NumpyCasePreprocessing):
    """Deterministic preprocessing of cases, stored with a run.

    Attributes:
        view_dropout: Share of the images that training leaves out, so that the model also works with fewer.
        variable_dropout: Share of the clinical variables that training hides, and of the cases of which it hides all.
        tokenizers: Arguments of the model for each tokenizer, besides those that follow from the images.
        image, shape, views, time_scale, variables, others, tokenizer_of: See the base class.
    """

    view_dropout: float = 0.0
    variable_dropout: float = 0.0
    tokenizers: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def images(self) -> list[Preprocessing]:  # type: ignore[override]
        """The preprocessing of the images of each tokenizer."""
        return [
            preprocessing_from_config(config) for config in (self.image, *(other["image"] for other in self.others))
        ]

    @classmethod
    def from_options(cls, options: TrainOptions, sources: Sequence[SampleSource]) -> CasePreprocessing:
        """Create the preprocessing of the images of ``sources``, with their views and times.

        Raises:
            UserError: As for single images; images that keep their own size; or ``--views`` that do not fit.
        """
        files = [file for source in sources if isinstance(source, Case) for file in source.files]
        settings = view_settings(options, files)
        kinds: list[dict[str, Any]] = [
            {"image": preprocessing_to_config(images), "shape": list(_shape(images))}
            for images in (setting.preprocessing(options, files) for setting in settings)
        ]
        tokenizer_of = {view: number for number, setting in enumerate(settings) for view in setting.views}
        case = cls(
            **kinds[0],
            views=known_views(sources),
            time_scale=longest_time(sources),
            variables=describe_variables(options.variables or (), options.categorical or (), sources),
            others=kinds[1:],
            tokenizer_of=dict(sorted(tokenizer_of.items())),
            view_dropout=options.view_dropout,
            variable_dropout=options.variable_dropout,
            tokenizers=[setting.tokenizer for setting in settings],
        )
        for shape, setting in zip(case.shapes, settings, strict=True):
            setting.check_patch(shape)
        return case

    def small_copy(self, sample: torch.Tensor) -> np.ndarray | None:
        """Return the mean of the small copies of the images of a case (R, F + V + 3).

        Of several tokenizers these are next to each other, zeros for one without an image.
        """
        copies: list[list[np.ndarray]] = [[] for _ in self.images]
        for number, image in self.pixels(sample):
            if (copy := self.images[number].small_copy(image)) is not None:
                copies[number].append(copy)
        if len(copies) == 1:
            return np.mean(copies[0], axis=0) if copies[0] else None
        means = [np.mean(own, axis=0) if own else self._empty_copy(number) for number, own in enumerate(copies)]
        return np.concatenate(means)

    def _empty_copy(self, number: int) -> np.ndarray:
        import torch

        copy = self.images[number].small_copy(torch.zeros(self.shapes[number]))
        assert copy is not None  # images and volumes have one
        return np.zeros_like(copy)

    def pixels(self, sample: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
        """Return the tokenizer and the pixels, a view of the shape (C, H, W), of each image of a case."""
        numbers, shapes = sample[:, TOKENIZER].long().tolist(), self.shapes
        return [
            (number, row[: math.prod(shapes[number])].unflatten(0, shapes[number]))
            for number, row in zip(numbers, sample, strict=True)
        ]

    def variable_values(self, sample: torch.Tensor) -> torch.Tensor:
        """Return the clinical variables (R, V) of a case (R, F + V + 3), the same for each image."""
        return sample[:, self.image_values : self.in_features]

    def augmentation(self) -> CaseAugmentation | None:
        """Return the augmentation of cases."""
        return CaseAugmentation(self, [images.augmentation() for images in self.images])

    def augmentation_of_views(self) -> CaseAugmentation | None:
        """Return the augmentation for prediction, which hides nothing; None if images have none."""
        images = [images.augmentation() for images in self.images]
        whole = replace(self, view_dropout=0.0, variable_dropout=0.0)
        return CaseAugmentation(whole, images, unknown_view=0.0) if any(images) else None

    def model_arguments(self) -> dict[str, Any]:
        """Return the arguments of the model of a single image, and those of its cases without the variables."""
        tokenizers = self.tokenizers or [{} for _ in self.images]
        first, *others = [images.model_arguments() | own for images, own in zip(self.images, tokenizers, strict=True)]
        case: dict[str, Any] = {"shape": list(self.shape), "views": len(self.views)}
        case["timed"] = self.time_scale is not None
        if others:
            case["others"] = [
                {"kind": images.kind, "shape": list(shape)} | own
                for images, shape, own in zip(self.images[1:], self.shapes[1:], others, strict=True)
            ]
        return first | {"case": case}

    def sample_bytes(self) -> int | None:
        """Return None: cases differ in size."""
        return None

    def in_words(self) -> list[str]:
        """Describe the preprocessing in sentences."""
        views = f"with the views {', '.join(self.views)}" if self.views else "without views"
        times = "" if self.time_scale is None else f", and times in units of {self.time_scale:g}"
        words = [f"Cases: all images of a sample together, {views}{times}."]
        words += self.variables_in_words()
        for number, images in enumerate(self.images):
            own = [view for view, tokenizer in self.tokenizer_of.items() if tokenizer == number]
            words += [f"Views {', '.join(own)}:"] if own else []
            words += images.in_words()
        return words


def _shape(images: Preprocessing) -> list[int]:
    """Return the shape of a prepared image; UserError if images keep their own size."""
    arguments = images.model_arguments()
    sides, channels = arguments["img_size"], arguments["in_chans"]
    if images.sample_bytes() is None:
        raise UserError("--resize-mode native: the images of a case share one size; choose another")
    return [channels, *(list(sides) if isinstance(sides, Sequence) else [sides, sides])]


class CaseAugmentation:
    """Augment each image of a case, leave some out, and hide the views of some, and some clinical variables.

    Args:
        preprocessing: Of the cases.
        images: Augmentation of a single image of each tokenizer, if any.
        unknown_view: Share of images whose view is hidden.
    """

    def __init__(
        self,
        preprocessing: CasePreprocessing,
        images: Sequence[Augmentation | None],
        unknown_view: float = UNKNOWN_VIEW,
    ) -> None:
        self.preprocessing, self.images, self.unknown_view = preprocessing, images, unknown_view

    def __call__(self, case: torch.Tensor, seed: int) -> torch.Tensor:
        """Augment a case (R, F + V + 3); equal seeds give equal results in any process and order."""
        random = np.random.default_rng(seed)
        kept = random.random(len(case)) >= self.preprocessing.view_dropout
        kept[random.integers(len(case))] = True  # keep at least one image
        hidden, seeds = random.random(len(case)) < self.unknown_view, random.integers(2**31, size=len(case))
        case = case.clone()
        for (number, image), own in zip(self.preprocessing.pixels(case), seeds.tolist(), strict=True):
            if (augmentation := self.images[number]) is not None:
                image.copy_(augmentation(image, own))
        case[np.flatnonzero(hidden), VIEW] = 0
        share, variables = self.preprocessing.variable_dropout, self.preprocessing.variable_values(case)
        variables[:, hidden_variables(variables.shape[1], share, random)] = math.nan
        return case[np.flatnonzero(kept)]

    def in_words(self) -> str:
        """Describe the augmentation, for people."""
        each = dict.fromkeys(images.in_words() for images in self.images if images is not None)
        own = "".join(f"{words}, of each image; " for words in each)
        left_out = f"{100 * self.preprocessing.view_dropout:g} % of the images left out"
        words = f"{own}{left_out}, {100 * self.unknown_view:g} % of the views hidden"
        return words + self.preprocessing.hidden_in_words()
