"""A case of several images to explain: a map of each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softfree.data.modalities.case import CasePreprocessing
from softfree.models.case import CaseTransformer
from softfree.saliency.geometry import TokenGrid
from softfree.saliency.maps import Map
from softfree.saliency.rendering import RenderedMap
from softfree.saliency.samples.opener import Part, Sample, SampleOpener
from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.image import DecodedImage
from softfree_runtime.sources.sample_source import Case, SampleSource, name_of


@dataclass(frozen=True)
class CaseSample:
    """The readable images of a case, each to be explained like a single one; ``left_out`` names the others, if any."""

    left_out: ReadError | None
    tensor: Tensor
    images: tuple[Sample, ...]
    names: tuple[str, ...]
    views: tuple[str, ...]
    grids: tuple[tuple[int, ...], ...]
    forms: tuple[tuple[str, ...], ...]

    @classmethod
    def read(cls, opener: SampleOpener, source: SampleSource | DecodedImage, frame: int | None) -> CaseSample:
        """Read and prepare a case."""
        preprocessing = opener.preprocessing
        assert isinstance(preprocessing, CasePreprocessing)
        array, readable, left_out = preprocessing.load_images(source, frame)
        files = [source.files[number] for number in readable] if isinstance(source, Case) else []
        inputs: list[tuple[Any, int | None]] = [(file.path, file.frame) for file in files] or [(source, frame)]
        tokenizers = [preprocessing.tokenizer(file) for file in files] or [preprocessing.tokenizer(source)]
        openers = [opener.of_tokenizer(number) for number in tokenizers]
        images = [own.single(*given) for own, given in zip(openers, inputs, strict=True)]
        names = [file.path for file in files] or ["" if isinstance(source, DecodedImage) else name_of(source)]
        views = [file.view for file in files] or [""]
        assert isinstance(opener.model, CaseTransformer)
        tensor, forms = torch.from_numpy(array), tuple(own.forms for own in openers)
        grids = tuple(opener.model.grids(tensor))
        return cls(left_out, tensor, tuple(images), tuple(names), tuple(views), grids, forms)

    @property
    def token_grid(self) -> TokenGrid:
        """Positions of the tokens of the first image."""
        return self.images[0].token_grid

    def parts(self, maps: Sequence[Map]) -> list[Part]:
        """Return each image with its part of the maps, whose values on the tokens of all images are split."""
        ends = np.cumsum([math.prod(grid) for grid in self.grids])
        split = [np.split(map_.values, ends[:-1]) for map_ in maps]
        return [
            Part(
                self.names[number],
                self.views[number],
                image,
                tuple(
                    replace(map_, values=values[number].reshape(self.grids[number]))
                    for map_, values in zip(maps, split, strict=True)
                ),
                self.forms[number],
            )
            for number, image in enumerate(self.images)
        ]

    def render(self, maps: Sequence[Map], longest: int) -> RenderedMap:
        """Render over the image with the strongest values of the first map."""
        parts = self.parts(maps)
        number = int(np.argmax([np.abs(part.maps[0].values).max() for part in parts]))
        rendered = parts[number].sample.render(parts[number].maps, longest)
        view = f", {self.views[number]}" if self.views[number] else ""
        note = f"image {number + 1} of {len(parts)}{view}, with the strongest values"
        return replace(rendered, note=f"{note}; {rendered.note}" if rendered.note else note)
