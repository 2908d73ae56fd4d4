"""Features of the tiles of slides: one file beside each row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from softfree.archive.task import Task, Words
from softfree.features.options import FeatureOptions
from softfree_runtime.core.errors import ReadError
from softfree_runtime.core.files import printable
from softfree_runtime.sources.inputs import NamedSource
from softfree_runtime.sources.sample_source import SourceFile, file_of


@dataclass(frozen=True)
class SlideFeatures(Task):
    """Encodes the tiles of slides, but those with complete files: what the files were made with is in them.

    Attributes:
        base: Folder that the names of slides are relative to.
        slides: Path and resolution of each slide.
        options: Of the extraction.
        settings: What the features depend on.
        threads: Threads of matrix products; None for those of the library.
    """

    name: ClassVar[str] = "slide features"
    words: ClassVar[Words] = Words("encode", "encoded", "Features of slides")
    block: ClassVar[int] = 1
    starts_anew: ClassVar[bool] = True

    base: str
    slides: tuple[tuple[str, float | None], ...]
    options: FeatureOptions
    settings: tuple[tuple[str, Any], ...]
    threads: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the slides at home: processes get theirs from the list of inputs."""
        return self.__dict__ | {"slides": ()}

    def open(self, root: Path) -> SlideEncoder:
        """Open the encoder."""
        return SlideEncoder(self, root)

    def inputs_of(self) -> tuple[str, Sequence[str]]:
        """Return the kind."""
        return "slide", ()

    def samples(self) -> list[NamedSource]:
        """Return the slides."""
        return [(printable(self.name_of(path)), SourceFile(path, mpp), None) for path, mpp in self.slides]

    def name_of(self, path: str) -> str:
        """Return the name of a slide: its path below the base."""
        return os.path.relpath(path, self.base)

    def identity(self) -> dict[str, Any]:
        """Return the settings, which ``settings.json`` has, too."""
        return dict(self.settings)


class SlideEncoder:
    """Encodes slides.

    Attributes:
        model_seconds: Time in the model; not known apart from reading.
    """

    def __init__(self, task: SlideFeatures, root: Path) -> None:
        """Open the encoder.

        Raises:
            UserError: It cannot be used.
        """
        from softfree.archive.timing import count_time, set_threads
        from softfree.core.environment import best_device
        from softfree.features.encoders import create_encoder
        from softfree.features.folder import FeatureFolder

        set_threads(task.threads)
        self.model_seconds = 0.0
        self._task, self._options = task, task.options
        self._encoder = create_encoder(task.options.encoder, task.options.weights, task.options.side)
        self._encoder.module.to(best_device())
        count_time(self._encoder.module, self)
        self._folder = FeatureFolder(root, dict(task.settings))

    def __call__(self, samples: Sequence[NamedSource], numbers: Sequence[int]) -> pa.Table:
        """Return one row for each slide."""
        return pa.Table.from_pylist([self._row(file_of(source)) for _, source, _ in samples])  # type: ignore[arg-type]

    def _row(self, file: SourceFile) -> dict[str, str | None]:
        from softfree.features.extract import SlideRow, extract_slide

        name = self._task.name_of(file.path)
        try:
            extract_slide(SlideRow(name, file.path, file.mpp), self._encoder, self._folder, self._options)
        except ReadError as error:
            return {"path": printable(name), "status": error.status, "reason": printable(str(error)), "file": None}
        return {"path": printable(name), "status": "ok", "reason": "", "file": printable(f"{name}.h5")}
