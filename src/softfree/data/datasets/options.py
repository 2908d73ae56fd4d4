"""Options of preparing a public data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(kw_only=True)
class PrepareOptions:
    """Data set.

    Attributes:
        out: Table to write; default: softfree.csv in the data set's folder.
        seed: Seed of the split by patient, if the data set has no official one.
        uncertain: CheXpert and MIMIC-CXR: what 'uncertain' (-1) becomes: an empty cell (unknown), 1 or 0.
        unmentioned: CheXpert and MIMIC-CXR: what a finding that the report does not mention becomes: an empty cell
            or 0.
        case: What a case is, whose images form one sample (a column case_id); default: the first of chexpert and
            mimic-cxr: study or image; vindr-mammo and cbis-ddsm: breast, exam or image; ham10000: image or lesion;
            tcga: slide or patient.
        label: duke-breast-mri and tcga: column of the clinical table to predict; of tcga also time_to_event, for
            survival.
        progress: Show progress bars.
    """

    out: Path | None = None
    seed: int = 0
    uncertain: Literal["empty", "positive", "negative"] = "empty"
    unmentioned: Literal["empty", "negative"] = "empty"
    case: Literal["image", "study", "breast", "exam", "lesion", "slide", "patient"] | None = None
    label: str | None = None
    progress: bool = True
