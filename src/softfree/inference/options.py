"""Options of inference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from softfree.core.options import Precision, StreamOptions


@dataclass(kw_only=True)
class InferenceOptions(StreamOptions):
    """Inference.

    Attributes:
        batch_size: Samples per batch; only samples of equal shape share one.
        precision: Arithmetic of matrix products, independent of that in training.
        num_workers: Number of processes that read files.
        progress: Show progress bars.
        tta: Test-time augmentation: number of views of each sample whose logits are averaged, the sample itself and
            copies augmented as in training; takes as many times as long.
    """

    batch_size: int = 16
    precision: Precision = "fp32"
    num_workers: int = 0
    progress: bool = True
    tta: int = 1


@dataclass(kw_only=True)
class PredictOptions(InferenceOptions):
    """Prediction.

    Attributes:
        out: CSV or Parquet file to write; or, for many inputs, a folder, in which the same command goes on after an
            interruption.
        frame: Frame of multi-frame files, counted from 0; default: the first.
        image_root: Folder that the paths of tables start from and that must contain all files; default: each table's
            folder.
    """

    out: Path = Path("predictions.csv")
    frame: int | None = None
    image_root: Path | None = None
