"""Experiments."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from softfree.options.training import ModelOptions, OptimizerOptions, PictureOptions, TableOptions


@dataclass(kw_only=True)
class AttentionStudyOptions(TableOptions, PictureOptions, ModelOptions, OptimizerOptions):
    """One recipe for several attentions and seeds, each in a process of its own.

    Attributes:
        attentions: Attentions to compare; the first is the peer that the others are paired with.
        seeds: Seeds, each used by every attention.
        out: Folder for the runs and the tables; a study that was stopped goes on where it was.
    """

    attentions: list[str] = field(default_factory=lambda: ["softmax", "sima", "seqnorm"])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    out: Path = Path("study")
