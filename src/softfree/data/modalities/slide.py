"""From a whole slide to the tensor that a model sees: its pixels, whose patches are the tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from softfree.data.modalities.tissue import find_tissue
from softfree.data.slide_readers.slide import Slide, open_slide
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.sources.joined_source import split_source

if TYPE_CHECKING:
    import torch

    from softfree.data.modalities.image import SlideAugmentation
    from softfree.training.options import TrainOptions

# ImageNet's, as timm.data.constants has them; timm brings torch, which prediction from a file does without.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Region:
    """What is read of a slide.

    Attributes:
        left: Millimeters from the left edge of the slide.
        top: Millimeters from the upper edge.
        width: Pixels that a model sees.
        height: Likewise.
    """

    left: float
    top: float
    width: int
    height: int


@dataclass(frozen=True)
class SlidePreprocessing:
    """The deterministic steps of the pixel road; stored with a run and replayed wherever it is used.

    Attributes:
        mpp: Micrometers per pixel that the model sees.
        tissue: Read the bounding box of the tissue only; the background within it stays as it is.
        side: Side in pixels of the square that the model's grid of positions is made for; it is resized to each slide.
        max_side: Longest side in pixels that is read at once; longer slides are streamed from their file.
    """

    kind: ClassVar[str] = "slide"
    channels: ClassVar[int] = 3

    mpp: float
    tissue: bool = True
    side: int = 1024
    max_side: int = 16384

    @classmethod
    def create(cls, mpp: float, *, tissue: bool = True) -> SlidePreprocessing:
        """Check the resolution."""
        if not 0 < mpp < math.inf:
            raise UserError(f"--mpp {mpp}: expected micrometers per pixel, such as 0.5, 4 or 16")
        return cls(float(mpp), tissue)

    @classmethod
    def from_options(cls, options: TrainOptions, files: Sequence[str]) -> SlidePreprocessing:
        """Create it from the options of a training run."""
        assert options.mpp is not None
        return cls.create(options.mpp, tissue=options.tissue)

    def load(self, source: str, frame: int | None = None) -> np.ndarray:
        """Read a slide, named by a path or as :func:`softfree_runtime.sources.joined_source.join_source` does.

        Returns:
            float32 (3, H, W), shifted and scaled by the mean and deviation of ImageNet.

        Raises:
            ReadError: No slide, no tissue, or status ``too_large`` for one that is longer than ``max_side``.
        """
        return self.load_sized(source, frame)[0]

    def load_sized(self, source: str, frame: int | None = None) -> tuple[np.ndarray, tuple[int, ...]]:
        """The same, and the rows and columns of what is read."""
        with self.open(source, frame) as slide:
            part = self.region(slide)
            if max(part.width, part.height) > self.max_side:
                raise self._too_large(slide, part.width, part.height)
            pixels = normalize(slide.read(part.left, part.top, part.width, part.height, self.mpp))
            return pixels, (part.height, part.width)

    def open(self, source: str, frame: int | None = None) -> Slide:
        """Open a slide that has the resolution; ReadError as of :meth:`load`."""
        if frame:
            raise ReadError(f"{source}: frame {frame} was asked for; a slide has none", "unsupported")
        slide = open_slide(*split_source(source))
        try:
            slide.refuse_finer(self.mpp)
        except ReadError:
            slide.close()
            raise
        return slide

    def region(self, slide: Slide) -> Region:
        """What is read: the bounding box of the tissue, or all; ReadError without tissue."""
        left, top, right, bottom = find_tissue(slide).box_mm() if self.tissue else (0.0, 0.0, *slide.size_mm)
        width, height = (max(1, math.ceil(side * 1000 / self.mpp - 1e-6)) for side in (right - left, bottom - top))
        return Region(left, top, width, height)

    def small_copy(self, sample: torch.Tensor) -> None:
        """Return None: a slide at a few pixels shows nothing."""

    def augmentation(self) -> SlideAugmentation:
        """The random changes that go with these steps."""
        from softfree.data.modalities.image import ImagePreprocessing, SlideAugmentation

        return SlideAugmentation(ImagePreprocessing("microscopy", self.side, "native", 3))

    def model_arguments(self) -> dict[str, Any]:
        """What a model must be told of the slides."""
        return {"img_size": self.side, "in_chans": self.channels}

    def sample_bytes(self) -> int | None:
        """None: each slide has a size of its own."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """The fields, for a run's configuration."""
        return asdict(self)

    def in_words(self) -> list[str]:
        """What is done, one sentence a step, for people."""
        part = "the bounding box of the tissue (Otsu on saturation)" if self.tissue else "the whole slide"
        return [
            f"Slides: {part} at {self.mpp:g} micrometers per pixel, background as it is, white beyond the slide.",
            "RGB; values shifted and scaled by the mean and deviation of ImageNet.",
        ]

    def _too_large(self, slide: Slide, width: int, height: int) -> ReadError:
        needed = self.mpp * max(width, height) / self.max_side
        unit = 10.0 ** (math.floor(math.log10(needed)) - 1)
        fits = f"{math.ceil(needed / unit - 1e-9) * unit:.2g}"
        return ReadError(
            f"{slide.path}: {width} x {height} pixels at {self.mpp:g} um, more than {self.max_side} along a side;"
            f" --mpp {fits} would fit",
            "too_large",
        )


def normalize(pixels: np.ndarray) -> np.ndarray:
    """Shift and scale uint8 (H, W, 3) to float32 (3, H, W), a channel at a time to save memory."""
    out = np.empty((3, *pixels.shape[:2]), np.float32)
    for channel, (mean, deviation) in enumerate(zip(MEAN, DEVIATION, strict=True)):
        np.multiply(pixels[..., channel], np.float32(1 / 255), out=out[channel])
        out[channel] -= np.float32(mean)
        out[channel] /= np.float32(deviation)
    return out
