"""The contract of all kinds of sample: from what a row of the table names to the tensor that a model sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    import torch

    from softfree.core.options import TrainOptions
    from softfree_runtime.preprocessing.variables import Variable
    from softfree_runtime.sources.sample_source import SampleSource


class Augmentation(Protocol):
    """Random augmentation of a prepared sample, a pure function of the sample and a seed."""

    def __call__(self, sample: torch.Tensor, seed: int, /) -> torch.Tensor:
        """Augment a sample; equal seeds give equal results in any process and order."""
        ...

    def in_words(self) -> str:
        """Describe the augmentation, for people."""
        ...


class Preprocessing(Protocol):
    """Deterministic preprocessing of one kind of sample, stored with a run and repeated wherever the run is used."""

    kind: ClassVar[str]

    @classmethod
    def from_options(cls, options: TrainOptions, sources: Sequence[SampleSource]) -> Preprocessing:
        """Create the preprocessing of a training run on ``sources``.

        Raises:
            UserError: An option out of range, or files that lack required information.
        """
        ...

    def load(self, source: Any, frame: int | None = None, /) -> np.ndarray:
        """Read and prepare one sample: float32, of the shape that the kind's models take, without the batch axis.

        Raises:
            ReadError: The source gives no sample.
        """
        ...

    def load_sized(self, source: Any, frame: int | None = None, /) -> tuple[np.ndarray, tuple[int, ...]]:
        """Return :meth:`load` and the original size: (slices,) rows and columns; of a bag its number of tiles."""
        ...

    def small_copy(self, sample: torch.Tensor) -> np.ndarray | None:
        """Reduce a prepared sample to a short vector; None for kinds without a small copy."""
        ...

    def augmentation(self) -> Augmentation | None:
        """Return the augmentation that fits this preprocessing, if any."""
        ...

    def model_arguments(self) -> dict[str, Any]:
        """Return the arguments of a model that follow from the samples: its sides, channels or features."""
        ...

    def sample_bytes(self) -> int | None:
        """Return the size of a prepared sample in memory; None if sizes differ."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, for a run's configuration."""
        ...

    def in_words(self) -> list[str]:
        """Describe the preprocessing in sentences, for people."""
        ...


@runtime_checkable
class LeavesOut(Protocol):
    """Preprocessing whose augmentation in training leaves something out, such as images of a case."""

    def augmentation_of_views(self) -> Augmentation | None:
        """Return the augmentation for prediction, which leaves nothing out; None if there is none."""
        ...


@runtime_checkable
class HasVariables(Protocol):
    """Preprocessing of samples that may have clinical variables."""

    variables: list[dict[str, Any]]

    @property
    def clinical_variables(self) -> tuple[Variable, ...]:
        """The clinical variables of a sample."""
        ...

    def variable_values(self, sample: Any, /) -> torch.Tensor:
        """Return the variables of a prepared sample, (n, V), the same in each row, NaN where unknown; a view."""
        ...
