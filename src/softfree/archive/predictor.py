"""The rows of a block of inputs: predictions of a run or of an exported file, and where the images come from."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from softfree.archive.origin import COLUMNS, origin_of
from softfree.core.options import Precision
from softfree_runtime.core.errors import ReadError
from softfree_runtime.sources.inputs import NamedSource
from softfree_runtime.sources.sample_source import files_of

CHANGED = ReadError("the file changed while it was read; predict it again when it is complete", "changed")


@dataclass(frozen=True)
class PredictorSettings:
    """How to predict.

    Attributes:
        model: A run directory, a study or an exported ONNX file.
        batch_size: Samples per batch.
        num_workers: Further processes that read files, to feed a GPU.
        threads: Threads of matrix products; None for those of the library.
        precision: Arithmetic of matrix products of a run.
        tta: Number of views of each sample.
        streaming: Further options of a run's inference.
    """

    model: str
    batch_size: int = 16
    num_workers: int = 0
    threads: int | None = None
    precision: Precision = "fp32"
    tta: int = 1
    streaming: tuple[tuple[str, Any], ...] = ()

    @property
    def exported(self) -> bool:
        """Whether the model is an exported file, which needs no torch."""
        return self.model.lower().endswith(".onnx")


class Predictor:
    """Predicts blocks of inputs.

    Attributes:
        model_seconds: Time spent in the model so far; the rest is reading and preparing.
    """

    def __init__(self, settings: PredictorSettings) -> None:
        """Open the model.

        Raises:
            UserError: It cannot be used.
        """
        self.settings = settings
        self.model_seconds = 0.0
        self._rows = self._of_file() if settings.exported else self._of_run()

    def __call__(self, samples: Sequence[NamedSource]) -> pa.Table:
        """Return one row for each input."""
        before = [_state(sample) for sample in samples]
        rows = self._rows(samples)
        changed = [old != new for old, new in zip(before, map(_state, samples), strict=True)]
        if any(changed):
            rows = _marked(rows, changed)
        origins = [origin_of(_first_file(sample)) for sample in samples]
        for name, values in zip(COLUMNS, zip(*origins, strict=True), strict=True):
            rows = rows.append_column(name, pa.array(values, pa.string()))
        return rows

    def _of_file(self) -> Callable[[Sequence[NamedSource]], pa.Table]:
        from softfree_runtime.prediction import predict_sources
        from softfree_runtime.session import Model

        model = Model(self.settings.model, threads=self.settings.threads)
        outputs = model.outputs

        def timed(samples: Any) -> Any:
            start = time.perf_counter()
            try:
                return outputs(samples)
            finally:
                self.model_seconds += time.perf_counter() - start

        model.outputs = timed  # type: ignore[method-assign]
        return lambda samples: pa.Table.from_pylist(
            predict_sources(model, samples, batch_size=self.settings.batch_size)
        )

    def _of_run(self) -> Callable[[Sequence[NamedSource]], pa.Table]:
        import torch

        from softfree.inference.options import InferenceOptions
        from softfree.inference.predict import predict_sources
        from softfree.inference.run import Run

        if self.settings.threads is not None:
            torch.set_num_threads(self.settings.threads)
        run = Run.load(self.settings.model)
        started: list[float] = []
        run.model.register_forward_pre_hook(lambda *_: started.append(time.perf_counter()))

        def add_time(*_: Any) -> None:
            self.model_seconds += time.perf_counter() - started.pop()

        run.model.register_forward_hook(add_time)
        options = InferenceOptions(
            batch_size=self.settings.batch_size,
            num_workers=self.settings.num_workers,
            precision=self.settings.precision,
            tta=self.settings.tta,
            progress=False,
            **dict(self.settings.streaming),
        )
        return lambda samples: pa.Table.from_pandas(predict_sources(run, samples, options), preserve_index=False)


def failed_row(sample: NamedSource, error: ReadError) -> pa.Table:
    """Return the row of an input without a prediction; parts are joined by column, so it may lack some."""
    return pa.Table.from_pylist([{"path": sample[0], "status": error.status, "reason": str(error)}])


def _marked(rows: pa.Table, changed: Sequence[bool]) -> pa.Table:
    """Give the rows of changed files their status, and empty what was predicted of them."""
    keep = {"path", "case_id"}
    records = [
        {name: value if name in keep or not new else None for name, value in record.items()}
        | ({"status": CHANGED.status, "reason": CHANGED.reason} if new else {})
        for record, new in zip(rows.to_pylist(), changed, strict=True)
    ]
    return pa.Table.from_pylist(records, schema=rows.schema)


def _first_file(sample: NamedSource) -> str:
    return files_of(sample[1])[0].path  # type: ignore[arg-type]


def _state(sample: NamedSource) -> tuple[tuple[int, int] | None, ...]:
    """Return size and time of change of the files of an input, to see whether they change meanwhile."""
    return tuple(_stat(Path(file.path)) for file in files_of(sample[1]))  # type: ignore[arg-type]


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a null byte in the name
        return None
    return found.st_size, found.st_mtime_ns
