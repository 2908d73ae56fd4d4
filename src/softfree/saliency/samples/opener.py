"""From what a row of a table names to a sample that can be explained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from softfree.data.modalities.base import Preprocessing
from softfree.models.classifier import Classifier
from softfree.saliency.samples.base import Sample
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.readers.image import DecodedImage
from softfree_runtime.readers.series_files import is_dicom
from softfree_runtime.sources.sample_source import SampleSource, file_of

# What a map of each kind may be written as, the default first; all of a tuple are written together.
FORMATS: dict[str, dict[str | None, tuple[str, ...]]] = {
    "image": {None: ("png",), "png": ("png",), "dicom": ("dicom",), "tiff": ("tiff",)},
    "volume": {None: ("nifti",), "nifti": ("nifti",), "png": ("png",)},
    "slide": {None: ("geojson", "tiff"), "geojson": ("geojson",), "tiff": ("tiff",), "png": ("png",)},
}
ENDINGS = {"png": ".png", "dicom": ".dcm", "nifti": ".nii.gz", "geojson": ".geojson", "tiff": ".tiff"}


@dataclass(frozen=True)
class SampleOpener:
    """Opens the samples of a run.

    Args:
        preprocessing: Of the run.
        model: Of the run.
        form: Of the files, or None for the kind's own.
        identity: Copy the patient's identity into DICOM files.

    Raises:
        UserError: Samples that have no image to lie a map over, or a format that is not for them.
    """

    preprocessing: Preprocessing
    model: Classifier
    form: str | None = None
    identity: bool = False

    def __post_init__(self) -> None:
        kind = self.preprocessing.kind
        if kind not in FORMATS:
            raise UserError(
                f"a run on samples of kind {kind} has no pixels to lay a map over; "
                "use softfree.saliency.maps.explain_tensor for the values of its tiles"
            )
        if self.form not in FORMATS[kind]:
            known = ", ".join(form for form in FORMATS[kind] if form)
            raise UserError(f"--format {self.form} is not for samples of kind {kind}; expected {known}")

    @property
    def forms(self) -> tuple[str, ...]:
        """What is written of each sample."""
        return FORMATS[self.preprocessing.kind][self.form]

    def __call__(self, source: SampleSource | DecodedImage, frame: int | None = None) -> Sample:
        """Read and prepare a sample; ReadError where it gives none."""
        # Each kind brings its readers' libraries, so that only the one in use is imported.
        if self.preprocessing.kind == "image":
            from softfree.saliency.samples.image import ImageSample

            image = source if isinstance(source, DecodedImage) else file_of(source).path
            self._refuse_what_is_no_dicom(image)
            return ImageSample.read(self.preprocessing, image, frame, self._patch[0], self.identity)
        assert not isinstance(source, DecodedImage)
        if self.preprocessing.kind == "volume":
            from softfree.saliency.samples.volume import VolumeSample

            return VolumeSample.read(self.preprocessing, file_of(source).path, frame, self._patch)
        from softfree.saliency.samples.slide import SlideSample

        return SlideSample.read(self.preprocessing, source, frame, self._patch[0])

    def _refuse_what_is_no_dicom(self, source: str | DecodedImage) -> None:
        if self.form == "dicom" and not (isinstance(source, str) and is_dicom(Path(source))):
            message = f"{source}: --format dicom refers to a DICOM source, and this is none; use --format png"
            raise ReadError(message, "unsupported")

    @property
    def _patch(self) -> tuple[int, int, int]:
        """Sides of a patch, equal ones of an image."""
        sides = self.model.patch_size
        return (sides,) * 3 if isinstance(sides, int) else tuple(sides)  # type: ignore[arg-type]
