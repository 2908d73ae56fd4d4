"""The kinds of sample that an exported model may take, one record for each, and the preprocessing of each."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Protocol

import numpy as np

from softfree_runtime.core.errors import UserError

IMAGE = "image"  # of files of earlier versions, which do not name a kind


class Preprocessing(Protocol):
    """Preprocessing of one kind of sample, without torch."""

    kind: ClassVar[str]

    def load(self, source: Any, frame: int | None = None, /) -> np.ndarray:
        """Read and prepare one sample: float32, without the batch axis; ReadError for a source that gives none."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        ...


@dataclass(frozen=True)
class Modality:
    """One kind of sample, described without importing the libraries that read it.

    Attributes:
        name: As ``kind`` in the metadata of a file.
        preprocessing: Module and class of its preprocessing. Slides and bags share theirs with training, since it does
            not need torch.
        packages: What to install for it, besides what images need.
        axes: How many sides of a sample a graph may fix.
        sequence: Whether a sample is a sequence of any length, (N, F), instead of an array (C, ...) of pixels.
        has_resolution: Whether a table may give micrometers per pixel for it.
        joined: Whether a table may join several files to one sample.
        lister: Module and function that lists the samples below a folder; None if each file is one.
    """

    name: str
    preprocessing: tuple[str, str]
    packages: str
    axes: int = 2
    sequence: bool = False
    has_resolution: bool = False
    joined: bool = False
    lister: tuple[str, str] | None = None

    def preprocessing_class(self) -> type:
        """Import the class of its preprocessing.

        Raises:
            UserError: A library that reads such samples is missing.
        """
        try:
            return _imported(self.preprocessing)
        except ImportError as error:
            raise UserError(
                f"samples of kind {self.name} need {error.name}, which is not installed; get it with: "
                f"pip install {self.packages}"
            ) from None

    def list_samples(self) -> Any:
        """Import the function that lists the samples below a folder, if there is one."""
        return None if self.lister is None else _imported(self.lister)


_ALL = (
    Modality(
        IMAGE,
        ("softfree_runtime.preprocessing.image", "NumpyImagePreprocessing"),
        "numpy pillow simplejpeg pydicom tifffile",
    ),
    Modality(
        "volume",
        ("softfree_runtime.preprocessing.volume", "NumpyVolumePreprocessing"),
        "nibabel scipy",
        axes=3,
        lister=("softfree_runtime.sources.volume_files", "volumes_in"),
    ),
    Modality(
        "slide",
        ("softfree.data.modalities.slide", "SlidePreprocessing"),
        "openslide-python openslide-bin wsidicom scikit-image",
        has_resolution=True,
    ),
    Modality(
        "bag",
        ("softfree.data.modalities.bag", "BagPreprocessing"),
        "h5py",
        axes=0,
        sequence=True,
        has_resolution=True,
        joined=True,
    ),
    Modality(
        "case",
        ("softfree_runtime.preprocessing.case", "NumpyCasePreprocessing"),
        "numpy pillow simplejpeg pydicom tifffile",
        axes=0,
        sequence=True,
        joined=True,
    ),
)
MODALITIES = {modality.name: modality for modality in _ALL}
KINDS = tuple(MODALITIES)


def preprocessing_from_config(config: dict[str, Any]) -> Preprocessing:
    """Create the preprocessing that a file's metadata describe.

    Raises:
        UserError: A library that reads such samples is missing.
        KeyError, TypeError, ValueError: It is no description of a preprocessing.
    """
    fields = dict(config)
    kind = fields.pop("kind", IMAGE)
    if kind not in KINDS:
        raise ValueError(f"samples of kind {kind!r}")
    cls: Any = MODALITIES[kind].preprocessing_class()
    preprocessing: Preprocessing = cls.from_dict(fields) if hasattr(cls, "from_dict") else cls(**fields)
    return preprocessing


def _imported(path: tuple[str, str]) -> Any:
    module, name = path
    return getattr(import_module(module), name)
