"""Options of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from softfree.core.options import Split
from softfree.inference.options import InferenceOptions


@dataclass(kw_only=True)
class EvaluateOptions(InferenceOptions):
    """Evaluation.

    Attributes:
        table: Another table than the one the run was trained on; needs out. The run's own table, even if moved, keeps
            the run's split. Rows whose file or patient the run was trained on are left out.
        image_root: Folder that relative paths start from; default: the table's folder.
        label: Column with the class, number or time of each image; default: as in training.
        event: Column with the events of survival; default: as in training.
        labels: Several 0/1 columns; default: as in training.
        include_training: Also evaluate rows that the run was trained on; their metrics say nothing about new patients.
        split: Rows to evaluate; default: test, or val where there are no test rows.
        subgroups: Columns whose values define subgroups, e.g. '[sex, scanner]'; the values appear in the report.
        allow_identifiers: Allow columns in subgroups whose values may identify people.
        compare_with: Another run to compare with on the same images.
        margin: Non-inferiority margin: the loss of AUROC that is still acceptable (of a regression, mean absolute
            error; of survival, C-index).
        prevalence: Share of positives where the model is to be used, e.g. 0.02: adds the predictive values there (tasks
            of two classes).
        show_images: Show the worst errors as images in the report (contains patient pixels).
        maps: Number of saliency maps to include in the report, of confident correct, confident wrong and uncertain
            predictions (contains patient pixels).
        out: Folder for the results; default: the run directory.
        num_bootstrap: Number of bootstrap resamples.
        seed: Seed of the bootstrap.
    """

    table: Path | None = None
    image_root: Path | None = None
    label: str | None = None
    event: str | None = None
    labels: list[str] | None = None
    include_training: bool = False
    split: Split | None = None
    subgroups: list[str] = field(default_factory=list)
    allow_identifiers: bool = False
    compare_with: Path | None = None
    margin: float | None = None
    prevalence: float | None = None
    show_images: bool = False
    maps: int = 0
    out: Path | None = None
    num_bootstrap: int = 2000
    seed: int = 0


@dataclass(kw_only=True)
class CompareOptions:
    """Comparison.

    Attributes:
        reference: Run that the others are compared with; default: the first.
        split: Rows to compare on; default: test rows, or validation rows where there are none, and for studies those of
            the cross-validation.
        common_rows: Compare on the rows that all runs were evaluated on, if these differ.
        margin: Non-inferiority margin: the loss of AUROC that is still acceptable (of a regression, mean absolute
            error; of survival, C-index).
        out: Folder for comparison.csv, comparison.json and comparison.html; default: only print.
        num_bootstrap: Number of bootstrap resamples.
        seed: Seed of the bootstrap.
    """

    reference: Path | None = None
    split: Split | None = None
    common_rows: bool = False
    margin: float | None = None
    out: Path | None = None
    num_bootstrap: int = 2000
    seed: int = 0


@dataclass(kw_only=True)
class ReportOptions:
    """Report.

    Attributes:
        evaluations: Folders of 'softfree evaluate --out' on other tables, reported as external evaluations.
        readings: Readings of a reader study: 'All readings (CSV)' of the reading room, or the store of softfree serve.
            Their numbers become a section of report.html and an entry of metrics.json.
        docx: Write DOCX, too (softfree[report]).
        out: Folder for the documents; default: documents in the run directory.
    """

    evaluations: list[Path] = field(default_factory=list)
    readings: str | None = None
    docx: bool = True
    out: Path | None = None
