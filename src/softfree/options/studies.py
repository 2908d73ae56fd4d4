"""Experiments."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(kw_only=True)
class AblationOptions:
    """Variants of a recipe by data sets by seeds, each a training in a process of its own.

    Attributes:
        variants: What is compared, the first with all others: 'zoo' (all attentions), 'starts', 'parts', 'norms',
            'class_token', 'block', 'rates', 'resolution', or a YAML file of options of softfree train by name.
        data: Folder that the recipes' tables are found from; default: the folder of each recipe.
        seeds: Seeds, each used by every variant.
        scales: Sides to test at, relative to the side in training.
        margin: Loss of AUROC against the first variant that is still called not inferior.
        resamples: Draws of seeds and patients for the intervals.
        jobs: Trainings side by side, which share the cores.
        keep: Keep the run directories with their weights; default: only what the tables need.
        out: Folder for the record and the tables; a study that was stopped goes on where it was.
        progress: Show a progress bar.
    """

    variants: list[str] = field(default_factory=lambda: ["zoo"])
    data: Path | None = None
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    scales: list[float] = field(default_factory=lambda: [1.0])
    margin: float = 0.02
    resamples: int = 2000
    jobs: int = 1
    keep: bool = False
    out: Path = Path("study")
    progress: bool = True


@dataclass(kw_only=True)
class RobustnessOptions:
    """Runs on their test pictures made worse, each corruption at five strengths.

    Attributes:
        corruptions: What is done to the pictures; what each does at which strength stands in docs/robustness.md.
        table: Another table with the same classes, measured as it is, e.g. of another hospital.
        images: Folder that the paths of that table start from; default: the table's folder.
        out: Folder for the tables and the figure.
        resamples: Bootstrap resamples.
        seed: Seed of the noise and of the bootstrap.
        batch: Pictures at once.
        workers: Processes that read and corrupt pictures.
        progress: Show a progress bar.
    """

    corruptions: list[str] = field(default_factory=lambda: ["blur", "noise", "contrast", "jpeg", "resolution", "crop"])
    table: Path | None = None
    images: Path | None = None
    out: Path = Path("robustness")
    resamples: int = 2000
    seed: int = 0
    batch: int = 16
    workers: int = 0
    progress: bool = True
