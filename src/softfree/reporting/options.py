"""Options of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from softfree.inference.options import InferenceOptions
from softfree.training.options import Split


@dataclass(kw_only=True)
class EvaluateOptions(InferenceOptions):
    """Numbers with intervals from a trained run.

    Attributes:
        table: Another table than the one the run was trained on; needs out. The run's own one, wherever it lies now,
            keeps the run's split. Rows whose file or patient the run was trained on are left out.
        image_root: Folder that the table's paths start from; default: the table's folder.
        label: Column with one class a row; default: as in training.
        labels: Several 0/1 columns; default: as in training.
        include_training: Measure rows that the run was trained on, too: their numbers say nothing about new patients.
        split: The rows to measure.
        subgroups: Columns to measure in subgroups, e.g. '[sex, scanner]'; their values stand in the report.
        allow_identifiers: Allow columns in subgroups that may tell who somebody is.
        compare_with: Another run, compared on the same images.
        margin: Loss of AUROC that is still called as good (non-inferiority margin).
        show_images: Show the worst errors as images in the report.
        maps: Show so many samples under maps of what the model looked at in the report: sure and right, sure and wrong,
            undecided. Pixels of patients leave the data folder; by default a report holds none.
        out: Folder for the results; default: the run itself.
        num_bootstrap: Bootstrap resamples.
        seed: Seed of the bootstrap.
    """

    table: Path | None = None
    image_root: Path | None = None
    label: str | None = None
    labels: list[str] | None = None
    include_training: bool = False
    split: Split = "test"
    subgroups: list[str] = field(default_factory=list)
    allow_identifiers: bool = False
    compare_with: Path | None = None
    margin: float | None = None
    show_images: bool = False
    maps: int = 0
    out: Path | None = None
    num_bootstrap: int = 2000
    seed: int = 0
