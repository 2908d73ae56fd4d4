"""Preprocessing of whole slides as images, whose patches are the tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from softfree.data.modalities.tissue import find_tissue
from softfree.data.slide_readers.slide import Slide, open_slide
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.sources.sample_source import SampleSource, file_of

if TYPE_CHECKING:
    import torch

    from softfree.core.options import TrainOptions
    from softfree.data.modalities.image import SlideAugmentation

# Of ImageNet, as in timm.data.constants; timm imports torch, which prediction from an exported file does not need.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Region:
    """The region of a slide that is read.

    Attributes:
        left: Left edge in millimeters from that of the slide.
        top: Upper edge likewise.
        width: Width in pixels of the model's input.
        height: Height likewise.
    """

    left: float
    top: float
    width: int
    height: int


@dataclass(frozen=True)
class SlidePreprocessing:
    """Deterministic preprocessing of the pixels of slides, stored with a run and repeated wherever the run is used.

    Attributes:
        mpp: Micrometers per pixel of the model's input.
        tissue: Read the bounding box of the tissue only, including the background within it.
        side: Side in pixels of the square for the model's position grid, which is resized to each slide.
        max_side: Longest side in pixels to read at once; longer slides are streamed from their file.
    """

    kind: ClassVar[str] = "slide"
    channels: ClassVar[int] = 3

    mpp: float
    tissue: bool = True
    side: int = 1024
    max_side: int = 16384

    @classmethod
    def create(cls, mpp: float, *, tissue: bool = True) -> SlidePreprocessing:
        """Create it after checking the resolution."""
        if not 0 < mpp < math.inf:
            raise UserError(f"--mpp {mpp}: expected micrometers per pixel, such as 0.5, 4 or 16")
        return cls(float(mpp), tissue)

    @classmethod
    def from_options(cls, options: TrainOptions, sources: Sequence[SampleSource]) -> SlidePreprocessing:
        """Create it from the options of a training run."""
        assert options.mpp is not None
        return cls.create(options.mpp, tissue=options.tissue)

    def load(self, source: SampleSource, frame: int | None = None) -> np.ndarray:
        """Read a slide.

        Returns:
            float32 (3, H, W), standardized by the mean and standard deviation of ImageNet.

        Raises:
            ReadError: Not a slide, no tissue, or with status ``too_large`` longer than ``max_side``.
        """
        return self.load_sized(source, frame)[0]

    def load_sized(self, source: SampleSource, frame: int | None = None) -> tuple[np.ndarray, tuple[int, ...]]:
        """Return :meth:`load`, and the rows and columns of the region."""
        with self.open(source, frame) as slide:
            region = self.region(slide)
            if max(region.width, region.height) > self.max_side:
                raise self._too_large(slide, region.width, region.height)
            pixels = normalize(slide.read(region.left, region.top, region.width, region.height, self.mpp))
            return pixels, (region.height, region.width)

    def open(self, source: SampleSource, frame: int | None = None) -> Slide:
        """Open a slide; ReadError as in :meth:`load`, or if it is too coarse."""
        file = file_of(source)
        if frame:
            raise ReadError(f"got frame {frame}; a slide has no frames", "unsupported", path=file.path)
        slide = open_slide(file.path, file.mpp)
        try:
            slide.refuse_finer(self.mpp)
        except ReadError:
            slide.close()
            raise
        return slide

    def region(self, slide: Slide) -> Region:
        """Return the bounding box of the tissue, or the whole slide; ReadError if there is no tissue."""
        left, top, right, bottom = find_tissue(slide).box_mm() if self.tissue else (0.0, 0.0, *slide.size_mm)
        width, height = (max(1, math.ceil(side * 1000 / self.mpp - 1e-6)) for side in (right - left, bottom - top))
        return Region(left, top, width, height)

    def small_copy(self, sample: torch.Tensor) -> None:
        """Return None: a slide at a few pixels shows nothing."""

    def augmentation(self) -> SlideAugmentation:
        """Return the augmentation of slides."""
        from softfree.data.modalities.image import ImagePreprocessing, SlideAugmentation

        return SlideAugmentation(ImagePreprocessing("microscopy", self.side, "native", 3))

    def model_arguments(self) -> dict[str, Any]:
        """Return the model arguments that follow from the slides."""
        return {"img_size": self.side, "in_chans": self.channels}

    def sample_bytes(self) -> int | None:
        """Return None: slides differ in size."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, for a run's configuration."""
        return asdict(self)

    def in_words(self) -> list[str]:
        """Describe the preprocessing in sentences."""
        area = "the bounding box of the tissue (Otsu on saturation)" if self.tissue else "the whole slide"
        return [
            f"Slides: {area} at {self.mpp:g} micrometers per pixel with its background, white beyond the slide.",
            "RGB; values standardized by the mean and standard deviation of ImageNet.",
        ]

    def _too_large(self, slide: Slide, width: int, height: int) -> ReadError:
        needed = self.mpp * max(width, height) / self.max_side
        unit = 10.0 ** (math.floor(math.log10(needed)) - 1)
        fits = f"{math.ceil(needed / unit - 1e-9) * unit:.2g}"
        return ReadError(
            f"{width} x {height} pixels at {self.mpp:g} um, more than {self.max_side} along a side;"
            f" --mpp {fits} would fit",
            "too_large",
            path=slide.path,
        )


def normalize(pixels: np.ndarray) -> np.ndarray:
    """Standardize uint8 (H, W, 3) to float32 (3, H, W), one channel at a time to save memory."""
    out = np.empty((3, *pixels.shape[:2]), np.float32)
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        np.multiply(pixels[..., channel], np.float32(1 / 255), out=out[channel])
        out[channel] -= np.float32(mean)
        out[channel] /= np.float32(std)
    return out
