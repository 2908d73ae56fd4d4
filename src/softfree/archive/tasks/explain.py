"""Saliency maps of an archive: files beside the rows."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from softfree.archive.folder import ArchiveFolder
from softfree.archive.task import Task, Words, model_digest
from softfree.saliency.options import ExplainOptions
from softfree_runtime.core.files import printable, remove_parts
from softfree_runtime.sources.inputs import NamedSource

MAPS = "maps"
PER_FOLDER = 1000
OPTIONS = ("method", "target", "layer", "head", "at", "format", "dicom_identity", "quantile", "precision")
_NESTED = ("regions", "images", "variables")


@dataclass(frozen=True)
class Explain(Task):
    """Writes maps.

    Attributes:
        run: A run directory or a study.
        options: As for a few files.
        threads: Threads of matrix products; None for those of the library.
    """

    name: ClassVar[str] = "explain"
    words: ClassVar[Words] = Words("explain", "explained", "Maps of an archive")
    block: ClassVar[int] = 4
    scores: ClassVar[str] = "probability|agreement"

    run: str
    options: ExplainOptions
    threads: int | None = None

    @classmethod
    def create(cls, run: str, options: ExplainOptions, threads: int | None = None) -> Explain:
        """Check the options before anything begins.

        Raises:
            UserError: The run does not support them.
        """
        from softfree.inference.run import Run
        from softfree.saliency.api import check_explain

        check_explain(Run.load(run), options)
        return cls(run, options, threads)

    def open(self, root: Path) -> MapWriter:
        """Open the run."""
        return MapWriter(self, root)

    def inputs_of(self) -> tuple[str, Sequence[str]]:
        """Return kind and variables of the run's samples."""
        from softfree.inference.run import Run
        from softfree_runtime.preprocessing.case import variables_of

        preprocessing = Run.load(self.run).preprocessing
        return preprocessing.kind, variables_of(preprocessing)

    def identity(self) -> dict[str, Any]:
        """Return the run and the options that maps depend on."""
        return {"model_digest": model_digest(self.run)} | {name: getattr(self.options, name) for name in OPTIONS}

    def finish(self, folder: ArchiveFolder) -> None:
        """Remove what killed processes left."""
        remove_parts(folder.root / MAPS)


class MapWriter:
    """Explains inputs.

    Attributes:
        model_seconds: Time of explaining, writing of maps included: they cannot be told apart from outside.
    """

    def __init__(self, task: Explain, root: Path) -> None:
        """Open the run.

        Raises:
            UserError: It does not support the options.
        """
        from softfree.archive.timing import set_threads
        from softfree.inference.run import Run
        from softfree.saliency.api import Explainer

        set_threads(task.threads)
        self.model_seconds = 0.0
        self._root = root
        self._explainer = Explainer(Run.load(task.run), task.options)

    def __call__(self, samples: Sequence[NamedSource], numbers: Sequence[int]) -> pa.Table:
        """Return one row for each input; maps are named by the number of the input, which no other has."""
        start = time.perf_counter()
        rows = [self._row(sample, number) for sample, number in zip(samples, numbers, strict=True)]
        self.model_seconds += time.perf_counter() - start
        return pa.Table.from_pylist(rows)

    def _row(self, sample: NamedSource, number: int) -> dict[str, Any]:
        from softfree.saliency.api import stem_of

        name, source, frame = sample
        folder = self._root / MAPS / f"{number // PER_FOLDER:06}"
        taken: list[str] = []

        def stem(part: str) -> str:
            again = f"_{len(taken) + 1}" if taken else ""
            taken.append(part)
            return f"{number:09}{again}_{stem_of(part)}"

        explained = self._explainer(name, source, frame, folder, stem)  # type: ignore[arg-type]
        row = explained.to_dict(self._explainer.run)
        files = [printable(path.relative_to(self._root).as_posix()) for path in explained.files]
        row |= {"reason": printable(row["reason"]), "map": files[0] if files else None, "files": files}
        return row | {key: json.dumps(row[key]) for key in _NESTED if key in row}
