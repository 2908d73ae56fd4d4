"""Preprocessing of a case: its images, each prepared as a single image is, one below the other in one array."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from softfree_runtime.core.errors import ReadError, listed
from softfree_runtime.core.files import say
from softfree_runtime.preprocessing import variables as clinical
from softfree_runtime.preprocessing.modalities import Preprocessing, preprocessing_from_config
from softfree_runtime.preprocessing.variables import Variable
from softfree_runtime.sources.sample_source import Case, CaseFile

PARTIAL = "partial"
"""Status of the error of a case of which some images can be read."""
HEADER = 3
"""Numbers after the pixels of an image: the number of its view, its time, and 0, which is NaN in padding."""


@dataclass(frozen=True)
class NumpyCasePreprocessing:
    """Deterministic preprocessing of cases, stored with a run and repeated wherever the run is used.

    Attributes:
        image: Description of the preprocessing of each image, of one kind for all.
        shape: Shape of a prepared image, channels first.
        views: Known views, numbered from 1; 0 stands for all others.
        time_scale: Longest time between two images of a training case, the unit of time of the model; None to ignore
            times.
        variables: Fields of each :class:`~softfree_runtime.preprocessing.variables.Variable` of a case.
    """

    kind: ClassVar[str] = "case"

    image: dict[str, Any]
    shape: list[int]
    views: list[str] = field(default_factory=list)
    time_scale: float | None = None
    variables: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def images(self) -> Preprocessing:
        """The preprocessing of each image."""
        return preprocessing_from_config(self.image)

    @cached_property
    def clinical_variables(self) -> tuple[Variable, ...]:
        """The clinical variables of a case."""
        return tuple(Variable(**fields) for fields in self.variables)

    @property
    def image_values(self) -> int:
        """Number of values of a prepared image."""
        return math.prod(self.shape)

    @property
    def in_features(self) -> int:
        """Number of values before those of :data:`HEADER`: those of a prepared image, and the clinical variables."""
        return self.image_values + len(self.variables)

    def load(self, source: Any, frame: int | None = None) -> np.ndarray:
        """Read and prepare the readable images of a case.

        Args:
            source: A :class:`~softfree_runtime.sources.sample_source.Case`, or another source for a case of one image
                of unknown view.
            frame: Frame of a multi-frame file, if the source is no case.

        Returns:
            float32 (R, F + V + 3): a row for each image, its pixels (C, H, W) flattened, then the clinical variables
            of the case, NaN where unknown, then as :data:`HEADER` says.

        Raises:
            ReadError: None of the images can be read, or a variable is text instead of a number.
        """
        return self.load_readable(source, frame)[0]

    def load_sized(self, source: Any, frame: int | None = None) -> tuple[np.ndarray, tuple[int, ...]]:
        """Return :meth:`load`, and the number of images."""
        rows, _ = self.load_readable(source, frame)
        return rows, (len(rows),)

    def load_readable(self, source: Any, frame: int | None = None) -> tuple[np.ndarray, ReadError | None]:
        """Return :meth:`load`, and an error that names the images that are left out; None if all can be read."""
        array, _, error = self.load_images(source, frame)
        return array, error

    def load_images(self, source: Any, frame: int | None = None) -> tuple[np.ndarray, list[int], ReadError | None]:
        """Return :meth:`load_readable` and, between the two, the positions of the readable images in the case."""
        files = source.files if isinstance(source, Case) else [source]
        variables = clinical.encode(self.clinical_variables, cells_of(source))
        times = self._relative_times(files)
        rows: dict[int, np.ndarray] = {}
        errors = []
        for number, (file, time) in enumerate(zip(files, times, strict=True)):
            try:
                rows[number] = self._row(file, frame, variables, time)
            except ReadError as error:
                errors.append(error)
        if not rows:
            raise errors[0] if len(errors) == 1 else _left_out(errors, len(files), errors[0].status)
        left_out = _left_out(errors, len(files), PARTIAL) if errors else None
        return np.stack(list(rows.values())), list(rows), left_out

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return asdict(self)

    def _row(self, file: Any, frame: int | None, variables: Sequence[float], time: float) -> np.ndarray:
        is_listed = isinstance(file, CaseFile)
        pixels = self.images.load(file.path, file.frame) if is_listed else self.images.load(file, frame)
        if pixels.shape != tuple(self.shape):
            expected, got = (" x ".join(map(str, shape)) for shape in (self.shape, pixels.shape))
            raise ReadError(f"prepared as {got} values; the images of a case need {expected}", "unsupported")
        view = self.number_of(file.view) if is_listed else 0
        return np.concatenate([pixels.ravel(), np.array([*variables, view, time, 0], np.float32)])

    def _relative_times(self, files: Sequence[Any]) -> list[float]:
        """Return times before the last image, in units of ``time_scale``; NaN where unknown."""
        times = [file.time if isinstance(file, CaseFile) else None for file in files]
        known = [time for time in times if time is not None]
        if self.time_scale is None or not known:
            return [math.nan] * len(times)
        return [math.nan if time is None else (time - max(known)) / self.time_scale for time in times]

    def number_of(self, view: str) -> int:
        """Return the number of a view: 0 if it is not known."""
        return self.views.index(view) + 1 if view in self.views else 0


def load_sample(preprocessing: Preprocessing, source: Any, frame: int | None) -> tuple[np.ndarray, ReadError | None]:
    """Read and prepare a sample of any kind.

    Returns:
        The prepared sample; and for a case with unreadable images the error that names them, else None.

    Raises:
        ReadError: The source gives no sample.
    """
    if isinstance(preprocessing, NumpyCasePreprocessing):
        return preprocessing.load_readable(source, frame)
    return preprocessing.load(source, frame), None


def case_ids(sources: Sequence[Any]) -> list[str]:
    """Return the name of each source's case, empty for none; an empty list if no source has one."""
    names = [source.id if isinstance(source, Case) else "" for source in sources]
    return names if any(names) else []


def cells_of(source: Any) -> dict[str, str]:
    """Return the cells of the clinical variables of a source, by column."""
    return dict(source.variables) if isinstance(source, Case) else {}


def missing_variables(preprocessing: Preprocessing, sources: Sequence[Any]) -> list[str]:
    """List the clinical variables that each source lacks, joined by ``; ``; an empty list for models without any."""
    if not isinstance(preprocessing, NumpyCasePreprocessing) or not preprocessing.variables:
        return []
    known = preprocessing.clinical_variables
    return ["; ".join(clinical.missing(known, cells_of(source))) for source in sources]


def variables_of(preprocessing: Preprocessing) -> list[str]:
    """Return the columns with the clinical variables of a model."""
    is_case = isinstance(preprocessing, NumpyCasePreprocessing)
    return [variable.name for variable in preprocessing.clinical_variables] if is_case else []


def note_unknown(preprocessing: Preprocessing, sources: Sequence[Any]) -> None:
    """Say which views and clinical variables of cases a model does not know."""
    if not isinstance(preprocessing, NumpyCasePreprocessing):
        return
    rows = [cells_of(source) for source in sources]
    for column, sentences in clinical.notes(preprocessing.clinical_variables, rows).items():
        say(f"column {column}", sentences)
    views = {file.view for source in sources if isinstance(source, Case) for file in source.files if file.view}
    if unknown := sorted(views - set(preprocessing.views)):
        known = listed(preprocessing.views, 12) or "none"
        say("column view", [f"{listed(unknown, 5)} unknown to the model, which ignores such views; it knows {known}"])


def _left_out(errors: Sequence[ReadError], count: int, status: str) -> ReadError:
    reasons = "; ".join(dict.fromkeys(error.reason for error in errors))
    paths = ";".join(error.path for error in errors)
    return ReadError(f"{len(errors)} of {count} images of the case cannot be read: {reasons}", status, path=paths)
