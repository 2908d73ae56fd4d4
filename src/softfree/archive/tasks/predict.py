"""Predictions of an archive, by a run, a study or an exported file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from softfree.archive.options import ArchiveOptions, check_exported
from softfree.archive.task import Resources, Task, Words, model_digest
from softfree.core.options import Precision
from softfree_runtime.preprocessing.case import variables_of
from softfree_runtime.sources.inputs import NamedSource

SCORES = r"(?:.+\.)?(?:p_.+|value|risk)"


@dataclass(frozen=True)
class Predict(Task):
    """Predicts.

    Attributes:
        model: A run directory, a study or an exported ONNX file.
        batch_size: Samples per batch.
        num_workers: Further processes that read files, to feed a GPU.
        threads: Threads of matrix products; None for those of the library.
        precision: Arithmetic of matrix products of a run.
        tta: Number of views of each sample.
        streaming: Further options of a run's inference.
    """

    name: ClassVar[str] = "predict"
    words: ClassVar[Words] = Words("predict", "predicted", "Predictions of an archive")
    results: ClassVar[str] = "predictions"
    scores: ClassVar[str] = SCORES

    model: str
    batch_size: int = 16
    num_workers: int = 0
    threads: int | None = None
    precision: Precision = "fp32"
    tta: int = 1
    streaming: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def create(cls, model: str, options: ArchiveOptions) -> Predict:
        """Take the settings from the options of the command.

        Raises:
            UserError: Options that an exported file does not have.
        """
        threads = Resources.of(options).threads
        task = cls(
            model,
            options.batch_size,
            options.num_workers,
            threads,
            options.precision,
            options.tta,
            tuple(options.streaming.items()),
        )
        if task.exported:
            check_exported(options)
        return task

    @property
    def exported(self) -> bool:
        """Whether the model is an exported file, which needs no torch."""
        return self.model.lower().endswith(".onnx")

    def open(self, root: Path) -> Predictor:
        """Open the model."""
        return Predictor(self)

    def inputs_of(self) -> tuple[str, Sequence[str]]:
        """Return kind and variables of the model's samples."""
        preprocessing: Any
        if self.exported:
            from softfree_runtime.session import Model

            preprocessing = Model(self.model).metadata.preprocessing
        else:
            from softfree.inference.run import Run

            preprocessing = Run.load(self.model).preprocessing
        return preprocessing.kind, variables_of(preprocessing)

    def identity(self) -> dict[str, Any]:
        """Return the model and the options that the numbers depend on."""
        return {
            "model_digest": model_digest(self.model),
            "batch_size": self.batch_size,
            "precision": self.precision,
            "tta": self.tta,
        }

    def reference_scores(self) -> Mapping[str, np.ndarray]:
        """Return the scores of the samples that a run was evaluated on; an exported file has no samples."""
        import pandas as pd

        path = Path(self.model) / "predictions.csv"
        if self.exported or not path.is_file():
            return {}
        rows = pd.read_csv(path).filter(regex=f"^{SCORES}$")
        return {str(name): values[np.isfinite(values)] for name in rows if (values := rows[name].to_numpy(float)).size}


class Predictor:
    """Predicts inputs.

    Attributes:
        model_seconds: Time spent in the model so far; the rest is reading and preparing.
    """

    def __init__(self, task: Predict) -> None:
        """Open the model.

        Raises:
            UserError: It cannot be used.
        """
        self.task = task
        self.model_seconds = 0.0
        self._rows = self._of_file() if task.exported else self._of_run()

    def __call__(self, samples: Sequence[NamedSource], numbers: Sequence[int]) -> pa.Table:
        """Return one row for each input."""
        return self._rows(samples)

    def _of_file(self) -> Callable[[Sequence[NamedSource]], pa.Table]:
        from softfree_runtime.prediction import predict_sources
        from softfree_runtime.session import Model

        model = Model(self.task.model, threads=self.task.threads)
        outputs = model.outputs

        def timed(samples: Any) -> Any:
            start = time.perf_counter()
            try:
                return outputs(samples)
            finally:
                self.model_seconds += time.perf_counter() - start

        model.outputs = timed  # type: ignore[method-assign]
        return lambda samples: pa.Table.from_pylist(predict_sources(model, samples, batch_size=self.task.batch_size))

    def _of_run(self) -> Callable[[Sequence[NamedSource]], pa.Table]:
        from softfree.archive.timing import count_time, set_threads
        from softfree.inference.options import InferenceOptions
        from softfree.inference.predict import predict_sources
        from softfree.inference.run import Run

        set_threads(self.task.threads)
        run = Run.load(self.task.model)
        count_time(run.model, self)
        options = InferenceOptions(
            batch_size=self.task.batch_size,
            num_workers=self.task.num_workers,
            precision=self.task.precision,
            tta=self.task.tta,
            progress=False,
            **dict(self.task.streaming),
        )
        return lambda samples: pa.Table.from_pandas(predict_sources(run, samples, options), preserve_index=False)
