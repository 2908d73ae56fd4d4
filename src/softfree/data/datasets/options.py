"""A public data set turned into a table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(kw_only=True)
class PrepareOptions:
    """The official download of a public set as a table for softfree train; nothing is downloaded.

    Attributes:
        out: Table to write; default: softfree.csv in the set's folder.
        seed: Seed of the split by patient, where the set has no official one.
        uncertain: CheXpert and MIMIC-CXR: what 'uncertain' (-1) becomes: an empty cell (unknown), 1 or 0.
        unmentioned: CheXpert and MIMIC-CXR: what a finding that the report does not mention becomes: an empty cell
            or 0.
        label: Duke-breast-mri and tcga: the column of the clinical table to be predicted.
        progress: Show progress bars.
    """

    out: Path | None = None
    seed: int = 0
    uncertain: Literal["empty", "positive", "negative"] = "empty"
    unmentioned: Literal["empty", "negative"] = "empty"
    label: str | None = None
    progress: bool = True
