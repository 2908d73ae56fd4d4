"""Preprocessing of whole slides as images, whose patches are the tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from softfree.data.modalities.tissue import find_tissue
from softfree.data.slide_readers.slide import Slide, open_slide
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.preprocessing.variables import TakesVariables, hidden
from softfree_runtime.sources.sample_source import SampleSource, file_of

if TYPE_CHECKING:
    import torch

    from softfree.core.options import TrainOptions
    from softfree.data.modalities.base import Augmentation
    from softfree.data.modalities.slide_rows import SlideRows

# Of ImageNet, as in timm.data.constants; timm imports torch, which prediction from an exported file does not need.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COLORS = len(MEAN)


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
class SlidePreprocessing(TakesVariables):
    """Deterministic preprocessing of the pixels of slides, stored with a run and repeated wherever the run is used.

    Clinical variables are the first numbers of one more channel, row by row, which otherwise is 0.

    Attributes:
        mpp: Micrometers per pixel of the model's input.
        tissue: Read the bounding box of the tissue only, including the background within it.
        side: Side in pixels of the square for the model's position grid, which is resized to each slide.
        max_side: Longest side in pixels to read at once; longer slides are streamed from their file.
        variables: Fields of each :class:`~softfree_runtime.preprocessing.variables.Variable` of a slide.
        variable_dropout: Share of the variables that training hides, and of the slides of which it hides all.
    """

    kind: ClassVar[str] = "slide"

    mpp: float
    tissue: bool = True
    side: int = 1024
    max_side: int = 16384
    variables: list[dict[str, Any]] = field(default_factory=list)
    variable_dropout: float = 0.0

    @property
    def channels(self) -> int:
        """Number of channels of a prepared slide."""
        return COLORS + bool(self.variables)

    @classmethod
    def create(cls, mpp: float, *, tissue: bool = True) -> SlidePreprocessing:
        """Create it after checking the resolution."""
        if not 0 < mpp < math.inf:
            raise UserError(f"--mpp {mpp}: expected micrometers per pixel, such as 0.5, 4 or 16")
        return cls(float(mpp), tissue)

    @classmethod
    def from_options(cls, options: TrainOptions, sources: Sequence[SampleSource]) -> SlidePreprocessing:
        """Create it from the options of a training run."""
        from softfree.data.variables import describe_variables  # needs pandas, which an exported file works without

        assert options.mpp is not None
        slides = cls.create(options.mpp, tissue=options.tissue)
        variables = describe_variables(options.variables or (), options.categorical or (), sources)
        return replace(slides, variables=variables, variable_dropout=options.variable_dropout) if variables else slides

    def load(self, source: SampleSource, frame: int | None = None) -> np.ndarray:
        """Read a slide.

        Returns:
            float32 (3, H, W), standardized by the mean and standard deviation of ImageNet; with clinical variables
            (4, H, W).

        Raises:
            ReadError: Not a slide, no tissue, or with status ``too_large`` longer than ``max_side``. A variable is
                text instead of a number.
        """
        return self.load_sized(source, frame)[0]

    def load_sized(self, source: SampleSource, frame: int | None = None) -> tuple[np.ndarray, tuple[int, ...]]:
        """Return :meth:`load`, and the rows and columns of the region."""
        with self.open(source, frame) as slide:
            region = self.region(slide)
            if max(region.width, region.height) > self.max_side:
                raise self._too_large(slide, region.width, region.height)
            pixels = slide.read(region.left, region.top, region.width, region.height, self.mpp)
            out = np.empty((self.channels, region.height, region.width), np.float32)
            normalize(pixels, out)
            if self.variables:
                write_variables(self.encoded_variables(source), out[COLORS], 0)
            return out, (region.height, region.width)

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
        if width * height < len(self.variables):
            raise ReadError(
                f"{width} x {height} pixels at {self.mpp:g} um, fewer than the clinical variables; use a finer --mpp",
                "unsupported",
                path=slide.path,
            )
        return Region(left, top, width, height)

    def small_copy(self, sample: torch.Tensor) -> None:
        """Return None: a slide at a few pixels shows nothing."""

    def variable_values(self, sample: torch.Tensor | SlideRows) -> torch.Tensor:
        """Return the clinical variables (1, V) of a slide (4, H, W), a view; of rows a copy."""
        import torch

        if isinstance(sample, torch.Tensor):
            return sample[COLORS].view(1, -1)[:, : len(self.variables)]
        return torch.from_numpy(sample.variables[None].copy())

    def augmentation(self) -> Augmentation:
        """Return the augmentation of slides."""
        from softfree.data.modalities.image import ImagePreprocessing, SlideAugmentation

        pixels = SlideAugmentation(ImagePreprocessing("microscopy", self.side, "native", COLORS))
        return AugmentationWithVariables(self, pixels) if self.variables else pixels

    def augmentation_of_views(self) -> Augmentation:
        """Return the augmentation for prediction, which hides nothing."""
        return replace(self, variable_dropout=0.0).augmentation()

    def model_arguments(self) -> dict[str, Any]:
        """Return the model arguments that follow from the slides."""
        return {"img_size": self.side, "in_chans": COLORS}

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
            *self.variables_in_words(),
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


class AugmentationWithVariables:
    """Augment the pixels of a slide (4, H, W), and hide some of its clinical variables.

    Args:
        preprocessing: Of the slides.
        pixels: Augmentation of the pixels.
    """

    def __init__(self, preprocessing: SlidePreprocessing, pixels: Augmentation) -> None:
        self.preprocessing, self.pixels = preprocessing, pixels

    def __call__(self, slide: torch.Tensor, seed: int) -> torch.Tensor:
        """Augment a slide; equal seeds give equal results in any process and order."""
        import torch

        pixels = self.pixels(slide[:COLORS], seed)
        augmented = torch.zeros(self.preprocessing.channels, *pixels.shape[1:])
        augmented[:COLORS] = pixels
        values = self.preprocessing.variable_values(slide)
        own = self.preprocessing.variable_values(augmented)
        own.copy_(values)
        random = np.random.default_rng(seed)
        own[:, hidden(values.shape[1], self.preprocessing.variable_dropout, random)] = math.nan
        return augmented

    def in_words(self) -> str:
        """Describe the augmentation, for people."""
        return self.pixels.in_words() + self.preprocessing.hidden_in_words()


def write_variables(variables: np.ndarray, rows: np.ndarray, top: int) -> None:
    """Write clinical variables (V,) into rows (n, W) of their channel, of which the first is row ``top``."""
    rows[:] = 0
    start = top * rows.shape[1]
    own = variables[start : start + rows.size]
    rows.reshape(-1)[: len(own)] = own


def normalize(pixels: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Standardize uint8 (H, W, 3) to float32 (3, H, W), one channel at a time to save memory.

    Args:
        pixels: The colors.
        out: Array with at least three channels to write to; default: a new one.
    """
    out = np.empty((COLORS, *pixels.shape[:2]), np.float32) if out is None else out
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        np.multiply(pixels[..., channel], np.float32(1 / 255), out=out[channel])
        out[channel] -= np.float32(mean)
        out[channel] /= np.float32(std)
    return out
