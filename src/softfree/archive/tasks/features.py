"""Pooled features of the images or volumes of an archive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from softfree.archive.task import Task, Words, model_digest
from softfree.core.options import Precision
from softfree_runtime.core.files import printable
from softfree_runtime.sources.inputs import NamedSource


@dataclass(frozen=True)
class PooledFeatures(Task):
    """Encodes whole samples.

    Attributes:
        encoder: A run, a timm name, ``hf-hub:owner/name`` or ``pixels``.
        kind: Kind of the samples.
        weights: Weights of a timm model.
        side: Side that images are scaled to by an encoder that is no run.
        batch_size: Samples per batch.
        num_workers: Further processes that read files.
        threads: Threads of matrix products; None for those of the library.
        precision: Arithmetic of matrix products; with bf16 or fp16, features are float16.
    """

    name: ClassVar[str] = "features"
    words: ClassVar[Words] = Words("encode", "encoded", "Features of an archive")
    keeps_columns: ClassVar[bool] = True

    encoder: str
    kind: str
    weights: Path | None = None
    side: int = 224
    batch_size: int = 64
    num_workers: int = 0
    threads: int | None = None
    precision: Precision = "fp32"

    def open(self, root: Path) -> Encoder:
        """Open the encoder."""
        return Encoder(self)

    def inputs_of(self) -> tuple[str, Sequence[str]]:
        """Return kind and variables of the samples."""
        from softfree.inference.run import Run
        from softfree_runtime.preprocessing.case import variables_of

        if not Path(self.encoder).is_dir():
            return self.kind, ()
        return self.kind, variables_of(Run.load(self.encoder).preprocessing)

    def identity(self) -> dict[str, Any]:
        """Return the encoder and what its numbers depend on."""
        return {
            "encoder": Path(self.encoder).name if Path(self.encoder).is_dir() else self.encoder,
            "model_digest": self._digest(),
            "kind": self.kind,
            "side": None if Path(self.encoder).is_dir() else self.side,
            "batch_size": self.batch_size,
            "precision": self.precision,
        }

    def facts(self) -> dict[str, Any]:
        """Return the number of features."""
        from softfree.features.pooled import open_pooled

        return {"features": open_pooled(self.encoder, self.weights, self.side, self.kind).width}

    def _digest(self) -> str:
        if Path(self.encoder).is_dir() and self.weights is None:
            return model_digest(self.encoder)
        if self.weights is not None and self.weights.is_file():
            return model_digest(str(self.weights))
        from softfree.features.encoders import create_encoder

        return create_encoder(self.encoder, self.weights, self.side).digest


class Encoder:
    """Encodes inputs.

    Attributes:
        model_seconds: Time spent in the model so far.
    """

    def __init__(self, task: PooledFeatures) -> None:
        """Open the encoder.

        Raises:
            UserError: It cannot be used.
        """
        from softfree.archive.timing import count_time, set_threads
        from softfree.features.pooled import open_pooled
        from softfree.inference.options import InferenceOptions

        set_threads(task.threads)
        self.model_seconds = 0.0
        self._encoder = open_pooled(task.encoder, task.weights, task.side, task.kind)
        count_time(self._encoder.module, self)
        self._options = InferenceOptions(
            batch_size=task.batch_size, num_workers=task.num_workers, precision=task.precision, progress=False
        )

    def __call__(self, samples: Sequence[NamedSource], numbers: Sequence[int]) -> pa.Table:
        """Return one row for each input, with a list of D numbers in the column ``features``."""
        encoded = self._encoder(samples, self._options)
        statuses, reasons = ["ok"] * len(samples), [""] * len(samples)
        for index, error in encoded.partial.items():
            reasons[index] = printable(str(error))
        for index, error in encoded.failed.items():
            statuses[index], reasons[index] = error.status, printable(str(error))
        failed = np.isin(np.arange(len(samples)), list(encoded.failed))
        vectors = pa.FixedSizeListArray.from_arrays(
            pa.array(encoded.features.ravel()), encoded.features.shape[1], mask=pa.array(failed)
        )
        paths = [name for name, _, _ in samples]
        return pa.table({"path": paths, "status": statuses, "reason": reasons, "features": vectors})
