"""The steps from a file to what an exported model takes, for each kind of sample."""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar, Protocol

import numpy as np

from softfree_runtime.core.errors import UserError

# Where the steps live, and what must be installed for them besides what images need. Only those in use are imported.
# Slides and bags have one preprocessing for training and here, as it does without torch.
_HOMES = {
    "image": (
        "softfree_runtime.preprocessing.image",
        "NumpyImagePreprocessing",
        "numpy pillow simplejpeg pydicom tifffile",
    ),
    "volume": ("softfree_runtime.preprocessing.volume", "NumpyVolumePreprocessing", "nibabel scipy"),
    "slide": (
        "softfree.data.modalities.slide",
        "SlidePreprocessing",
        "openslide-python openslide-bin wsidicom scikit-image",
    ),
    "bag": ("softfree.data.modalities.bag", "BagPreprocessing", "h5py"),
}


KINDS = tuple(_HOMES)
IMAGE = "image"  # what files of earlier versions, which do not say, are about


class Preprocessing(Protocol):
    """The steps of one kind of sample, without torch."""

    kind: ClassVar[str]

    def load(self, source: Any, frame: int | None = None, /) -> np.ndarray:
        """Read and prepare one sample, float32, without the batch axis; ReadError for a source that gives none."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        ...


def preprocessing_from_config(config: dict[str, Any]) -> Preprocessing:
    """Make the steps that a file's metadata describe.

    Raises:
        UserError: a library that reads such samples is missing.
        KeyError, TypeError, ValueError: it is no description of such steps.
    """
    fields = dict(config)
    preprocessing = preprocessing_class(fields.pop("kind", IMAGE))
    make = getattr(preprocessing, "from_dict", None) or (lambda found: preprocessing(**found))
    made: Preprocessing = make(fields)
    return made


def preprocessing_class(kind: str) -> type:
    """Find the class of the steps of samples of a ``kind``.

    Raises:
        UserError: a library that reads such samples is missing.
        ValueError: there are no such samples.
    """
    if kind not in KINDS:
        raise ValueError(f"samples of kind {kind!r}")
    module, name, needed = _HOMES[kind]
    try:
        found: type = getattr(import_module(module), name)
    except ImportError as error:
        raise UserError(
            f"samples of kind {kind} need {error.name}, which is not installed; get it with: pip install {needed}"
        ) from None
    return found
