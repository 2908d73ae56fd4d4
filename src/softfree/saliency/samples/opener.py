"""Samples to explain: their interface, one table of their kinds, and the PNG that each can be drawn as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from softfree.data.modalities.base import Preprocessing
from softfree.data.modalities.case import CasePreprocessing
from softfree.models.case import CaseTransformer
from softfree.models.classifier import Classifier
from softfree.saliency.captions import MapText, method_title
from softfree.saliency.geometry import TokenGrid
from softfree.saliency.maps import Map
from softfree.saliency.overlay import Layer, draw_overlay
from softfree.saliency.regions import Region
from softfree.saliency.rendering import RenderedMap
from softfree.streaming import Rows
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.readers.image import DecodedImage
from softfree_runtime.readers.series_files import is_dicom
from softfree_runtime.sources.sample_source import SampleSource, file_of

if TYPE_CHECKING:
    from softfree.saliency.samples.case import CaseSample

THUMBNAIL = 2048  # longest side of the PNG of a sample that is larger than a page
ENDINGS = {"png": ".png", "dicom": ".dcm", "nifti": ".nii.gz", "geojson": ".geojson", "tiff": ".tiff"}


class Sample(Protocol):
    """A sample that can be explained."""

    @property
    def tensor(self) -> Tensor | Rows:
        """Input of the model; rows if it is too long to be read at once."""
        ...

    @property
    def token_grid(self) -> TokenGrid:
        """Positions of the tokens in the source."""
        ...

    def render(self, maps: Sequence[Map], longest: int) -> RenderedMap:
        """Render maps over an image of the sample, at most about ``longest`` pixels a side."""
        ...

    def write(self, form: str, path: Path, maps: Sequence[Map], regions: list[Region], words: MapText) -> None:
        """Write maps in one of the formats of the sample's kind: all next to each other, or only the first."""
        ...


@dataclass(frozen=True)
class Part:
    """An image of a sample, which is the whole sample unless this is a case.

    Attributes:
        name: Its path.
        view: Its view in a case; empty if unknown.
        sample: The image.
        maps: Maps on its tokens.
        forms: The formats written for it.
    """

    name: str
    view: str
    sample: Sample
    maps: tuple[Map, ...]
    forms: tuple[str, ...]


@dataclass(frozen=True)
class SampleKind:
    """A kind of sample, described without importing the libraries that read it.

    Attributes:
        module: Module and class of its samples, with a class method ``read(opener, source, frame)``.
        formats: The formats of its maps; of a case, those of its images.
        default: The formats written unless one is requested.
    """

    module: tuple[str, str]
    formats: tuple[str, ...]
    default: tuple[str, ...]


SAMPLE_KINDS = {
    "image": SampleKind(("softfree.saliency.samples.image", "ImageSample"), ("png", "dicom", "tiff"), ("png",)),
    "volume": SampleKind(("softfree.saliency.samples.volume", "VolumeSample"), ("nifti", "png"), ("nifti",)),
    "slide": SampleKind(
        ("softfree.saliency.samples.slide", "SlideSample"), ("geojson", "tiff", "png"), ("geojson", "tiff")
    ),
}


@dataclass(frozen=True)
class SampleOpener:
    """Opens the samples of a run.

    Args:
        preprocessing: Of the run.
        model: Of the run.
        form: Format of the files, or None for the default of the kind.
        identity: Copy the patient's identity into DICOM files.

    Raises:
        UserError: Samples without an image to draw a map on, or a format that the kind does not have.
    """

    preprocessing: Preprocessing
    model: Classifier
    form: str | None = None
    identity: bool = False

    def __post_init__(self) -> None:
        for kind in self.kinds:
            self._check(kind)

    def _check(self, kind: str) -> None:
        if kind not in SAMPLE_KINDS:
            raise UserError(
                f"a run on samples of kind {kind} has no pixels to draw a map on; "
                "use softfree.saliency.maps.explain_tensor for the values of its tiles"
            )
        if self.form is not None and self.form not in SAMPLE_KINDS[kind].formats:
            known = ", ".join(SAMPLE_KINDS[kind].formats)
            raise UserError(f"--format {self.form} is not for samples of kind {kind}; expected {known}")

    @property
    def kinds(self) -> list[str]:
        """Kind of the samples; of cases, those of their images."""
        preprocessing = self.preprocessing
        each = preprocessing.images if isinstance(preprocessing, CasePreprocessing) else [preprocessing]
        return list(dict.fromkeys(images.kind for images in each))

    def of_tokenizer(self, number: int) -> SampleOpener:
        """Return the opener of the images of one tokenizer of a run on cases."""
        assert isinstance(self.preprocessing, CasePreprocessing)
        assert isinstance(self.model, CaseTransformer)
        images = self.preprocessing.images[number]
        return replace(self, preprocessing=images, model=self.model.tokenizer(number))

    @property
    def forms(self) -> tuple[str, ...]:
        """The formats written for each image of a run on samples of one kind."""
        return SAMPLE_KINDS[self.preprocessing.kind].default if self.form is None else (self.form,)

    @property
    def patch(self) -> tuple[int, int, int]:
        """Sides of a patch, all equal for images."""
        sides = self.model.patch_size
        return (sides,) * 3 if isinstance(sides, int) else tuple(sides)  # type: ignore[arg-type]

    def __call__(self, source: SampleSource | DecodedImage, frame: int | None = None) -> Sample | CaseSample:
        """Read and prepare a sample; ReadError if that is not possible."""
        if not isinstance(self.preprocessing, CasePreprocessing):
            return self.single(source, frame)
        from softfree.saliency.samples.case import CaseSample

        return CaseSample.read(self, source, frame)

    def single(self, source: SampleSource | DecodedImage, frame: int | None = None) -> Sample:
        """Read and prepare a sample that is not a case; ReadError if that is not possible."""
        if self.form == "dicom":
            _require_dicom(source)
        module, name = SAMPLE_KINDS[self.preprocessing.kind].module
        sample: Sample = getattr(import_module(module), name).read(self, source, frame)
        return sample


def _require_dicom(source: SampleSource | DecodedImage) -> None:
    if isinstance(source, DecodedImage) or not is_dicom(Path(file_of(source).path)):
        name = "a decoded image" if isinstance(source, DecodedImage) else file_of(source).path
        message = "--format dicom needs a DICOM source to refer to; use --format png"
        raise ReadError(message, "unsupported", name)


def draw(path: Path, rendered: RenderedMap, maps: Sequence[Map], words: MapText) -> None:
    """Write a PNG of rendered maps."""
    title = f"{words.title}; {rendered.note}" if rendered.note else words.title
    layers = [
        Layer(values, method_title(map_), map_.signed) for values, map_ in zip(rendered.values, maps, strict=True)
    ]
    draw_overlay(path, rendered.image, layers, title=title, caption=words.caption, token_grid=rendered.token_grid)
