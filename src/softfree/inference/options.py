"""What comes before and after a training: audit, evaluation, prediction, demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from softfree.training.options import Precision, StreamOptions


@dataclass(kw_only=True)
class InferenceOptions(StreamOptions):
    """How a trained model is asked.

    Attributes:
        batch_size: Samples at once; only those of equal shape share a batch.
        precision: Arithmetic of matrix products: 'fp32', 'bf16' or 'fp16', whatever the model was trained in.
        num_workers: Processes that read files.
        progress: Show progress bars.
    """

    batch_size: int = 16
    precision: Precision = "fp32"
    num_workers: int = 0
    progress: bool = True


@dataclass(kw_only=True)
class PredictOptions(InferenceOptions):
    """Probabilities for new images.

    Attributes:
        out: CSV or Parquet file to write; default: predictions.csv.
        frame: Frame of multi-frame files, counted from 0; default: the first.
        image_root: Folder that the paths of tables start from and must lie in; default: each table's folder.
    """

    out: Path = Path("predictions.csv")
    frame: int | None = None
    image_root: Path | None = None
