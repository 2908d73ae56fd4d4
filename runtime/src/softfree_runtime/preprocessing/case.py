"""Preprocessing of a case: its images, each prepared as a single image is, one below the other in one array."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from softfree_runtime.core.errors import ReadError, listed
from softfree_runtime.core.files import say
from softfree_runtime.preprocessing import variables as clinical
from softfree_runtime.preprocessing.modalities import Preprocessing, preprocessing_from_config
from softfree_runtime.preprocessing.variables import TakesVariables, cells_of
from softfree_runtime.sources.sample_source import Case, CaseFile, SourceFile

PARTIAL = "partial"
"""Status of the error of a case of which some images can be read."""
HEADER = 3
"""Numbers after the pixels of an image and the clinical variables: of its view, its time, and of its tokenizer."""
VIEW, TIME, TOKENIZER = -3, -2, -1
"""Columns of these numbers. The last is 0 for the only tokenizer, and NaN in padding."""


@dataclass(frozen=True)
class NumpyCasePreprocessing(TakesVariables):
    """Deterministic preprocessing of cases, stored with a run and repeated wherever the run is used.

    Attributes:
        image: Description of the preprocessing of each image, or of those of the first tokenizer.
        shape: Shape of such an image when it is prepared, channels first.
        views: Known views, numbered from 1; 0 stands for all others.
        time_scale: Longest time between two images of a training case, the unit of time of the model; None to ignore
            times.
        variables: Fields of each :class:`~softfree_runtime.preprocessing.variables.Variable` of a case.
        others: The same for the images of each further tokenizer: ``image`` and ``shape``.
        tokenizer_of: Number of the tokenizer of each view; empty if there is only one, for images of any view.
    """

    kind: ClassVar[str] = "case"

    image: dict[str, Any]
    shape: list[int]
    views: list[str] = field(default_factory=list)
    time_scale: float | None = None
    variables: list[dict[str, Any]] = field(default_factory=list)
    others: list[dict[str, Any]] = field(default_factory=list)
    tokenizer_of: dict[str, int] = field(default_factory=dict)

    @cached_property
    def images(self) -> list[Preprocessing]:
        """The preprocessing of the images of each tokenizer."""
        return [
            preprocessing_from_config(config) for config in (self.image, *(other["image"] for other in self.others))
        ]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of a prepared image of each tokenizer, channels first."""
        return [tuple(self.shape), *(tuple(other["shape"]) for other in self.others)]

    @property
    def image_values(self) -> int:
        """Number of values of the largest prepared image."""
        return max(map(math.prod, self.shapes))

    @property
    def in_features(self) -> int:
        """Number of values before those of :data:`HEADER`: those of the largest image, and the clinical variables."""
        return self.image_values + len(self.variables)

    @property
    def row_width(self) -> int:
        """Number of values in a row of a prepared case."""
        return self.in_features + HEADER

    def load(self, source: Any, frame: int | None = None) -> np.ndarray:
        """Read and prepare the readable images of a case.

        Args:
            source: A :class:`~softfree_runtime.sources.sample_source.Case`, or another source for a case of one image
                of unknown view.
            frame: Frame of a multi-frame file, if the source is no case.

        Returns:
            float32 (R, F + V + 3): a row for each image, its pixels (C, H, W) flattened, with zeros up to those of the
            largest, then the clinical variables of the case, NaN where unknown, then as :data:`HEADER` says.

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
        variables = self.encoded_variables(source)
        times = relative_times(files, self.time_scale)
        rows: dict[int, np.ndarray] = {}
        errors = []
        for number, (file, time) in enumerate(zip(files, times, strict=True)):
            try:
                rows[number] = self._row(file, frame, variables, time)
            except ReadError as error:
                errors.append(error)
        left_out = left_out_of(errors, len(files), "images")
        return np.stack(list(rows.values())), list(rows), left_out

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return asdict(self)

    def _row(self, file: Any, frame: int | None, variables: np.ndarray, time: float) -> np.ndarray:
        is_listed = isinstance(file, CaseFile)
        number = self.tokenizer(file)
        images, shape = self.images[number], self.shapes[number]
        pixels = images.load(file.path, file.frame) if is_listed else images.load(file, frame)
        if pixels.shape != shape:
            expected, got = (" x ".join(map(str, sides)) for sides in (shape, pixels.shape))
            raise ReadError(f"prepared as {got} values; the images of a case need {expected}", "unsupported")
        row = np.zeros(self.row_width, np.float32)
        row[: pixels.size] = pixels.ravel()
        row[self.image_values : self.in_features] = variables
        row[[VIEW, TIME, TOKENIZER]] = view_number(file, self.views), time, number
        return row

    def tokenizer(self, file: Any) -> int:
        """Return the number of the tokenizer of a file, from its view.

        Raises:
            ReadError: A view without one, in a model of several.
        """
        if not self.tokenizer_of or not isinstance(file, str | SourceFile):  # a decoded image is of the first kind
            return 0
        view = file.view if isinstance(file, CaseFile) else ""
        if view not in self.tokenizer_of:
            given, known = f"the view {view!r}" if view else "no view", ", ".join(self.tokenizer_of)
            path = file.path if isinstance(file, SourceFile) else file
            raise ReadError(f"{given}; the model reads images by their views: {known}", "unsupported", path=path)
        return self.tokenizer_of[view]


def view_number(file: Any, views: Sequence[str]) -> int:
    """Return the number of a file's view among known ones, from 1: 0 if it is not known."""
    view = file.view if isinstance(file, CaseFile) else ""
    return views.index(view) + 1 if view in views else 0


def relative_times(files: Sequence[Any], time_scale: float | None) -> list[float]:
    """Return times before the last file, in units of ``time_scale``; NaN where unknown."""
    times = [file.time if isinstance(file, CaseFile) else None for file in files]
    known = [time for time in times if time is not None]
    if time_scale is None or not known:
        return [math.nan] * len(times)
    return [math.nan if time is None else (time - max(known)) / time_scale for time in times]


@runtime_checkable
class ReadsInPart(Protocol):
    """Preprocessing of samples of several files, of which some may be unreadable."""

    views: list[str]

    def load_readable(self, source: Any, frame: int | None = None) -> tuple[np.ndarray, ReadError | None]:
        """Prepare the readable files, and return an error that names the others; ReadError if there are none."""
        ...


def load_sample(preprocessing: Preprocessing, source: Any, frame: int | None) -> tuple[np.ndarray, ReadError | None]:
    """Read and prepare a sample of any kind.

    Returns:
        The prepared sample; and for a case with unreadable images the error that names them, else None.

    Raises:
        ReadError: The source gives no sample.
    """
    if isinstance(preprocessing, ReadsInPart):
        return preprocessing.load_readable(source, frame)
    return preprocessing.load(source, frame), None


def case_ids(sources: Sequence[Any]) -> list[str]:
    """Return the name of each source's case, empty for none; an empty list if no source has one."""
    names = [source.id if isinstance(source, Case) else "" for source in sources]
    return names if any(names) else []


def missing_variables(preprocessing: Preprocessing, sources: Sequence[Any]) -> list[str]:
    """List the clinical variables that each source lacks, joined by ``; ``; an empty list for models without any."""
    if not isinstance(preprocessing, TakesVariables) or not preprocessing.variables:
        return []
    known = preprocessing.clinical_variables
    return ["; ".join(clinical.missing(known, cells_of(source))) for source in sources]


def variables_of(preprocessing: Preprocessing) -> list[str]:
    """Return the columns with the clinical variables of a model."""
    if not isinstance(preprocessing, TakesVariables):
        return []
    return [variable.name for variable in preprocessing.clinical_variables]


def note_unknown(preprocessing: Preprocessing, sources: Sequence[Any]) -> None:
    """Say which views and clinical variables of samples a model does not know."""
    if isinstance(preprocessing, TakesVariables):
        rows = [cells_of(source) for source in sources]
        for column, sentences in clinical.notes(preprocessing.clinical_variables, rows).items():
            say(f"column {column}", sentences)
    if not isinstance(preprocessing, ReadsInPart):
        return
    views = {file.view for source in sources if isinstance(source, Case) for file in source.files if file.view}
    if unknown := sorted(views - set(preprocessing.views)):
        known = listed(preprocessing.views, 12) or "none"
        say("column view", [f"{listed(unknown, 5)} unknown to the model, which ignores such views; it knows {known}"])


def left_out_of(errors: Sequence[ReadError], count: int, what: str) -> ReadError | None:
    """Return an error that names the unreadable ones of ``count`` files of a case; None if all can be read.

    Raises:
        ReadError: None can be read.
    """
    if len(errors) == count:
        raise errors[0] if count == 1 else _joined(errors, count, what, errors[0].status)
    return _joined(errors, count, what, PARTIAL) if errors else None


def _joined(errors: Sequence[ReadError], count: int, what: str, status: str) -> ReadError:
    reasons = "; ".join(dict.fromkeys(error.reason for error in errors))
    paths = ";".join(error.path for error in errors)
    return ReadError(f"{len(errors)} of {count} {what} of the case cannot be read: {reasons}", status, path=paths)
