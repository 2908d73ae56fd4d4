"""The kinds of sample, one record for each: the only place that knows them all."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from softfree.data.modalities.base import Preprocessing
from softfree_runtime.core.errors import UserError

if TYPE_CHECKING:
    from softfree.core.options import TrainOptions


@dataclass(frozen=True)
class Modality:
    """One kind of sample, described without importing the libraries that read it.

    Attributes:
        name: As ``preprocessing.kind`` in a run's configuration.
        plural: For messages.
        preprocessing: Module and class of its preprocessing.
        size: What the numbers of its size are, for people.
        axes: How many numbers its size has.
        options: Options of a training run that only samples of this kind understand.
        small_copy: What remains of a sample in a small copy, for people; empty if there is no small copy.
        model_families: Parts of model names, between underscores, that stand for it; empty for models of images.
        has_resolution: Whether a table may give micrometers per pixel for it.
        padded: Whether samples of different length share a batch, padded.
        row_reader: Module and function that opens a sample too large for memory and reads it band by band; None if
            there is none.
    """

    name: str
    plural: str
    preprocessing: tuple[str, str]
    size: str
    axes: int
    options: tuple[str, ...]
    small_copy: str = ""
    model_families: tuple[str, ...] = ()
    has_resolution: bool = False
    padded: bool = False
    row_reader: tuple[str, str] | None = None

    def preprocessing_class(self) -> Any:
        """Import the class of its preprocessing."""
        return _imported(self.preprocessing)

    def open_rows(self) -> Any:
        """Import the function that opens a sample band by band, if there is one."""
        return None if self.row_reader is None else _imported(self.row_reader)


_ALL = (
    Modality(
        "image",
        "images",
        ("softfree.data.modalities.image", "ImagePreprocessing"),
        "height, width and aspect ratio",
        2,
        options=("preset", "size", "resize_mode", "channels"),
        small_copy="32 x 32 pixels",
    ),
    Modality(
        "volume",
        "volumes",
        ("softfree.data.modalities.volume", "VolumePreprocessing"),
        "numbers of slices, rows and columns",
        3,
        options=("modality", "shape", "spacing", "window", "series"),
        small_copy="12 x 12 x 12 voxels",
        model_families=("vit3d", "3d"),
    ),
    Modality(
        "slide",
        "slides",
        ("softfree.data.modalities.slide", "SlidePreprocessing"),
        "height, width and aspect ratio",
        2,
        options=("mpp", "tissue"),
        has_resolution=True,
        row_reader=("softfree.data.modalities.slide_rows", "open_rows"),
    ),
    Modality(
        "bag",
        "bags of tiles",
        ("softfree.data.modalities.bag", "BagPreprocessing"),
        "number of tiles",
        1,
        options=(),
        small_copy="mean of the features",
        model_families=("bag",),
        has_resolution=True,
        padded=True,
    ),
    Modality(
        "case",
        "cases of several images",
        ("softfree.data.modalities.case", "CasePreprocessing"),
        "number of images",
        1,
        options=(),
        small_copy="mean of the images' small copies",
        padded=True,
    ),
)
MODALITIES = {modality.name: modality for modality in _ALL}
KINDS = tuple(MODALITIES)


def modality_of(options: TrainOptions) -> Modality:
    """Return the modality of single samples: that of the model's family, with ``mpp`` slides instead of images."""
    parts = set(options.model.split("_"))
    for modality in MODALITIES.values():
        if set(modality.model_families) & parts:
            return modality
    return MODALITIES["image" if options.mpp is None else "slide"]


def preprocessing_from_config(config: dict[str, Any]) -> Preprocessing:
    """Create the preprocessing that a run's configuration describes.

    Raises:
        UserError: A kind or a field that this version does not know.
    """
    fields = dict(config)
    kind = fields.pop("kind", "image")
    if kind not in KINDS:
        raise UserError(f"the run was trained on samples of kind {kind!r}; expected one of {', '.join(MODALITIES)}")
    try:
        return MODALITIES[kind].preprocessing_class()(**fields)
    except TypeError as error:
        raise UserError(f"the run's preprocessing cannot be used ({error}); copy the run again") from None


def preprocessing_to_config(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return what a run's configuration records, for :func:`preprocessing_from_config`."""
    return {"kind": preprocessing.kind} | preprocessing.to_dict()


def _imported(path: tuple[str, str]) -> Any:
    module, name = path
    return getattr(import_module(module), name)
