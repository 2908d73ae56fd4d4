"""From what a row of the table names to the tensor that a model sees: one contract for all kinds of sample."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from softfree_runtime.core.errors import UserError

if TYPE_CHECKING:
    import torch

# Where each kind's steps live; they bring their readers' libraries, so that only the one in use is imported.
_HOMES = {
    "image": ("softfree.data.modalities.image", "ImagePreprocessing"),
    "volume": ("softfree.data.modalities.volume", "VolumePreprocessing"),
    "slide": ("softfree.data.modalities.slide", "SlidePreprocessing"),
    "bag": ("softfree.data.modalities.bag", "BagPreprocessing"),
}
KINDS = tuple(_HOMES)


class Augmentation(Protocol):
    """Random changes of a prepared sample, a pure function of the sample and a seed."""

    def __call__(self, sample: torch.Tensor, seed: int, /) -> torch.Tensor:
        """Change a sample; equal seeds give equal results in any process and order."""
        ...

    def in_words(self) -> str:
        """What is changed, for people."""
        ...


class Preprocessing(Protocol):
    """The deterministic steps of one kind of sample; stored with a run and replayed wherever it is used."""

    kind: ClassVar[str]

    def load(self, source: Any, frame: int | None = None, /) -> np.ndarray:
        """Read and prepare one sample, float32, of the shape that the kind's models take, without the batch axis.

        Raises:
            ReadError: a source that gives no sample.
        """
        ...

    def load_sized(self, source: Any, frame: int | None = None, /) -> tuple[np.ndarray, tuple[int, ...]]:
        """The same, and the size that the sample had: rows and columns, slices first of a volume; tiles of a bag."""
        ...

    def augmentation(self) -> Augmentation | None:
        """The random changes that go with these steps, if any."""
        ...

    def model_arguments(self) -> dict[str, Any]:
        """What a model must be told of the samples: its sides, channels or features."""
        ...

    def sample_bytes(self) -> int | None:
        """Size of a prepared sample; None when sizes differ."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """The fields, for a run's configuration."""
        ...

    def in_words(self) -> list[str]:
        """What is done, one sentence a step, for people."""
        ...


def preprocessing_class(kind: str) -> Any:
    """The class of a kind's steps."""
    module, name = _HOMES[kind]
    return getattr(import_module(module), name)


def preprocessing_from_config(config: dict[str, Any]) -> Preprocessing:
    """Make the steps that a run's configuration describes.

    Raises:
        UserError: a kind or a field that this version does not know.
    """
    fields = dict(config)
    kind = fields.pop("kind", "image")
    if kind not in KINDS:
        raise UserError(f"the run was trained on samples of kind {kind!r}; expected one of {', '.join(KINDS)}")
    try:
        return preprocessing_class(kind)(**fields)
    except TypeError as error:
        raise UserError(f"the run's preprocessing cannot be used ({error}); copy the run again") from None


def preprocessing_to_config(preprocessing: Preprocessing) -> dict[str, Any]:
    """What a run's configuration records of the steps, for :func:`restore`."""
    return {"kind": preprocessing.kind} | preprocessing.to_dict()


def files_of(source: str) -> Sequence[str]:
    """The files that a cell of the column path names: one, or several of a bag joined by ``;``."""
    return source.split(";")
