"""What comes before and after a training: audit, evaluation, prediction, demo."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from softfree.options.training import Precision, Split, StreamOptions, TableOptions


@dataclass(kw_only=True)
class InferenceOptions(StreamOptions):
    """How a trained model is asked.

    Attributes:
        batch: Samples at once; only those of equal shape share a batch.
        precision: Arithmetic of the products: 32, bf16 or 16 bits, whatever the model was trained in.
        workers: Processes that read files.
        progress: Show progress bars.
    """

    batch: int = 16
    precision: Precision = "32"
    workers: int = 0
    progress: bool = True


@dataclass(kw_only=True)
class EvaluateOptions(InferenceOptions):
    """Numbers with intervals from a trained run.

    Attributes:
        table: Another table than the one the run was trained on; needs out. The run's own one, wherever it lies now,
            keeps the run's split. Rows whose file or patient the run was trained on are left out.
        images: Folder that the table's paths start from; default: the table's folder.
        label: Column with one class a row; default: as in training.
        labels: Several 0/1 columns; default: as in training.
        include_training: Measure rows that the run was trained on, too: their numbers say nothing about new patients.
        split: The rows to measure.
        by: Columns to measure in subgroups, e.g. '[sex, scanner]'; their values stand in the report.
        allow_identifiers: Allow columns in by that may tell who somebody is.
        against: Another run, compared on the same pictures.
        margin: Loss of AUROC that is still called as good (non-inferiority margin).
        pictures: Show the worst errors as pictures in the report.
        maps: Show so many samples under maps of what the model looked at in the report: sure and right, sure and wrong,
            undecided. Pixels of patients leave the data folder; by default a report holds none.
        out: Folder for the results; default: the run itself.
        resamples: Bootstrap resamples.
        seed: Seed of the bootstrap.
    """

    table: Path | None = None
    images: Path | None = None
    label: str | None = None
    labels: list[str] | None = None
    include_training: bool = False
    split: Split = "test"
    by: list[str] = field(default_factory=list)
    allow_identifiers: bool = False
    against: Path | None = None
    margin: float | None = None
    pictures: bool = False
    maps: int = 0
    out: Path | None = None
    resamples: int = 2000
    seed: int = 0


@dataclass(kw_only=True)
class PredictOptions(InferenceOptions):
    """Probabilities for new pictures.

    Attributes:
        out: CSV or Parquet file to write; default: predictions.csv.
        frame: Frame of multi-frame files, counted from 0; default: the first.
        images: Folder that the paths of tables start from and must lie in; default: each table's folder.
    """

    out: Path = Path("predictions.csv")
    frame: int | None = None
    images: Path | None = None


@dataclass(kw_only=True)
class CheckOptions(TableOptions):
    """An audit of a table before training.

    Attributes:
        strict: Count files that had to be corrected, or about which something was assumed, as errors.
        workers: Threads that read pictures.
        progress: Show a progress bar.
    """

    strict: bool = False
    workers: int = 2
    progress: bool = True


@dataclass(kw_only=True)
class DemoOptions:
    """The main job on computed pictures (phantoms): no file and no network needed.

    Attributes:
        slide: Instead, large computed slides whose class depends on two small marks far apart: what attention over
            everything is for.
        out: Folder to write to, made new; with slide by default softfree-slide-demo.
        seed: Seed of the phantoms and of the training.
        progress: Show progress bars.
    """

    slide: bool = False
    out: Path = Path("softfree-demo")
    seed: int = 0
    progress: bool = True
