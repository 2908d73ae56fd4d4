"""Experiments."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from softfree.explain.options import MapMethod
from softfree.training.options import Precision, PresetName, ResizeMode

Removal = Literal["mean", "blur"]


@dataclass(kw_only=True)
class AblationOptions:
    """Variants of a recipe by data sets by seeds, each a training in a process of its own.

    Attributes:
        variants: What is compared, the first with all others: 'zoo' (all attentions), 'starts', 'parts', 'norms',
            'class_token', 'block', 'rates', 'resolution', or a YAML file of options of softfree train by name.
        data: Folder that the recipes' tables are found from; default: the folder of each recipe.
        seeds: Seeds, each used by every variant.
        scales: Sides to test at, relative to the side in training.
        baseline: Put a logistic regression on images of 32 x 32 pixels beside them.
        margin: Loss of AUROC against the first variant that is still called not inferior.
        num_bootstrap: Draws of seeds and patients for the intervals.
        jobs: Trainings side by side, which share the cores.
        keep: Keep the run directories with their weights; default: only what the tables need.
        out: Folder for the record and the tables; a study that was stopped goes on where it was.
        progress: Show a progress bar.
    """

    variants: list[str] = field(default_factory=lambda: ["zoo"])
    data: Path | None = None
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    scales: list[float] = field(default_factory=lambda: [1.0])
    baseline: bool = True
    margin: float = 0.02
    num_bootstrap: int = 2000
    jobs: int = 1
    keep: bool = False
    out: Path = Path("study")
    progress: bool = True


@dataclass(kw_only=True)
class RobustnessOptions:
    """Runs on their test images made worse, each corruption at five strengths.

    Attributes:
        corruptions: What is done to the images; what each does at which strength stands in docs/how-to/robustness.md.
        table: Another table with the same classes, measured as it is, e.g. of another hospital.
        image_root: Folder that the paths of that table start from; default: the table's folder.
        own_table: Where the table that the runs were trained on lies now, if it was moved.
        out: Folder for the tables and the figure.
        num_bootstrap: Bootstrap resamples.
        seed: Seed of the noise and of the bootstrap.
        batch_size: Images at once.
        num_workers: Processes that read and corrupt images.
        progress: Show a progress bar.
    """

    corruptions: list[str] = field(default_factory=lambda: ["blur", "noise", "contrast", "jpeg", "resolution", "crop"])
    table: Path | None = None
    image_root: Path | None = None
    own_table: Path | None = None
    out: Path = Path("robustness")
    num_bootstrap: int = 2000
    seed: int = 0
    batch_size: int = 16
    num_workers: int = 0
    progress: bool = True


@dataclass(kw_only=True)
class ConvergenceOptions:
    """The residual of SOFT's pseudo-inverse after each iteration.

    Attributes:
        model: A model with SOFT attention, with fresh weights.
        run: A trained run instead, with its preprocessing.
        size: Side of the square that the model sees, in pixels.
        preset: Intensity scaling: 'radiograph', 'photo' or 'microscopy'.
        resize_mode: Into the square by padding, stretching, or cropping the center.
        count: Images to measure, the first ones.
        precision: Arithmetic of the iteration.
        iterations: Steps.
        seed: Of the fresh weights.
        out: Folder for the table and the plot.
        progress: Show a progress bar.
    """

    model: str = "soft_vit_nano_patch16"
    run: Path | None = None
    size: int = 224
    preset: PresetName = "photo"
    resize_mode: ResizeMode = "pad"
    count: int = 16
    precision: list[Precision] = field(default_factory=lambda: ["fp32", "bf16", "fp16"])
    iterations: int = 20
    seed: int = 0
    out: Path = Path("convergence")
    progress: bool = True


@dataclass(kw_only=True)
class AttentionMapOptions:
    """Which tokens one token attends to, attention by attention.

    Attributes:
        at: Place of the query in the prepared image: part of its width, part of its height.
        layer: Number of the layer, from 0, or from the last with -1.
        out: PNG to write.
    """

    at: list[float] = field(default_factory=lambda: [0.5, 0.5])
    layer: int = -1
    out: Path = Path("attention-maps.png")


@dataclass(kw_only=True)
class ExplainStudyOptions:
    """How far the maps of each method can be trusted, run by run.

    Attributes:
        methods: What is compared; default: all.
        target: Class that is explained, on images that have it; default: what is predicted, on images of all.
        count: Test images, of each class in turn.
        removal: How a token is taken out: 'mean' (its patch becomes the image's mean) or 'blur' (it is blurred).
        steps: Of the curves of deletion and insertion.
        orders: Random orders that they are compared with.
        randomized: Of the images, those whose maps are made again with random weights.
        radius: Of a finding that the table places with columns x and y but without a column radius, in pixels; default:
            that of a phantom's cluster.
        precision: Arithmetic of the curves; maps are always computed in float32.
        num_bootstrap: Bootstrap resamples of patients.
        seed: Of random orders, random weights and resamples.
        batch_size: Images at once.
        table: Where the table that the runs were trained on lies now, if it was moved.
        out: Folder for the tables and the figures.
        progress: Show a progress bar.
    """

    methods: list[MapMethod] = field(default_factory=lambda: list(get_args(MapMethod)))
    target: str | None = None
    count: int = 24
    removal: Removal = "mean"
    steps: int = 16
    orders: int = 3
    randomized: int = 8
    radius: float = 44.0
    precision: Literal["fp32", "bf16"] = "fp32"
    num_bootstrap: int = 2000
    seed: int = 0
    batch_size: int = 16
    table: Path | None = None
    out: Path = Path("maps_study")
    progress: bool = True


@dataclass(kw_only=True)
class CoverageOptions:
    """How often the intervals of a report hold the truth, by simulation.

    Attributes:
        patients: Numbers of patients.
        images: Numbers of images of each patient.
        positives: Shares of the patients that are positive.
        separations: Distances of the classes in standard deviations of a negative image.
        spreads: Standard deviations of the positive patients and images, those of the negative being 1.
        repeats: Simulated studies of each setting.
        num_bootstrap: Bootstrap resamples of each.
        seed: Of the simulation.
        out: Folder for the table and the figure.
        progress: Show a progress bar.
    """

    patients: list[int] = field(default_factory=lambda: [10, 20, 50, 100])
    images: list[int] = field(default_factory=lambda: [1, 10])
    positives: list[float] = field(default_factory=lambda: [0.15, 0.5])
    separations: list[float] = field(default_factory=lambda: [1.0, 3.0])
    spreads: list[float] = field(default_factory=lambda: [1.0, 2.0])
    repeats: int = 150
    num_bootstrap: int = 400
    seed: int = 0
    out: Path = Path("coverage")
    progress: bool = True
