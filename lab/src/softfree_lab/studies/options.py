"""Options of the studies."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from softfree.core.options import Precision, PresetName, ResizeMode
from softfree.saliency.options import MapMethod

Removal = Literal["mean", "blur"]


@dataclass(kw_only=True)
class AblationOptions:
    """Ablation study.

    Attributes:
        variants: What to compare, the first with all others: 'zoo' (all attentions), 'inits', 'parts', 'norms',
            'class_token', 'block', 'rates', 'resolution', or a YAML file of options of softfree train by name.
        data: Folder that contains the tables of the recipes; default: the folder of each recipe.
        seeds: Seeds, each used by every variant.
        scales: Image sides at test time, relative to the side in training.
        folds: Number of folds of a cross-validation by patients, whose predictions are pooled; 0 for the split of the
            table.
        baseline: Include a logistic regression on images of 32 x 32 pixels.
        margin: Non-inferiority margin: acceptable loss of AUROC against the first variant.
        num_bootstrap: Number of resamples of seeds and patients for the intervals.
        jobs: Number of parallel training runs, which share the cores.
        keep: Keep the run directories with their weights instead of only what the tables need.
        out: Folder for the record and the tables; an interrupted study resumes there.
        progress: Show a progress bar.
    """

    variants: list[str] = field(default_factory=lambda: ["zoo"])
    data: Path | None = None
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    scales: list[float] = field(default_factory=lambda: [1.0])
    folds: int = 0
    baseline: bool = True
    margin: float = 0.02
    num_bootstrap: int = 2000
    jobs: int = 1
    keep: bool = False
    out: Path = Path("study")
    progress: bool = True


@dataclass(kw_only=True)
class CurvesOptions:
    """Study of learning curves.

    Attributes:
        own_table: Where the table that the curves were made of is now, if it was moved.
        baseline: Include a logistic regression on images of 32 x 32 pixels, fitted to the same labels.
        margin: Non-inferiority margin: acceptable loss of AUROC against the first curve.
        num_bootstrap: Number of resamples of draws and patients for the intervals.
        out: Folder for the record and the tables.
    """

    own_table: Path | None = None
    baseline: bool = True
    margin: float = 0.02
    num_bootstrap: int = 2000
    out: Path = Path("curves")


@dataclass(kw_only=True)
class RobustnessOptions:
    """Robustness study.

    Attributes:
        corruptions: Corruptions of the images; docs/how-to/robustness.md says what each does at which strength.
        table: Another table with the same classes, evaluated as it is, e.g. of another hospital.
        image_root: Folder that the paths of that table start from; default: the table's folder.
        own_table: Where the table that the runs were trained on is now, if it was moved.
        out: Folder for the tables and the figure.
        num_bootstrap: Number of bootstrap resamples.
        seed: Seed of the noise and of the bootstrap.
        batch_size: Images per batch.
        num_workers: Number of processes that read and corrupt images.
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
class EnsembleOptions:
    """Study of an ensemble.

    Attributes:
        tta: Number of views of each sample in test-time augmentation.
        own_table: Where the table that the study was made of is now, if it was moved.
        out: CSV file to write, with its tables and the machine next to it.
        num_bootstrap: Number of bootstrap resamples.
        seed: Seed of the bootstrap.
        batch_size: Samples per batch.
        num_workers: Number of processes that read samples.
        progress: Show progress bars.
    """

    tta: int = 8
    own_table: Path | None = None
    out: Path = Path("ensemble.csv")
    num_bootstrap: int = 2000
    seed: int = 0
    batch_size: int = 16
    num_workers: int = 0
    progress: bool = True


@dataclass(kw_only=True)
class ViewsOptions:
    """Study of cases of two images.

    Attributes:
        seeds: Seeds of the images and of the training.
        n_train: Number of training cases.
        n_val: Number of validation cases.
        n_test: Number of test cases.
        size: Side of the images, in pixels.
        mark: Diameter of a mark, in pixels.
        model: A model of images.
        model_options: Further arguments of the model.
        epochs: Number of passes over the training cases.
        batch_size: Cases per batch.
        lr: Peak learning rate.
        work: Folder for the images and runs.
        out: CSV file to write, with its tables and the machine next to it.
        progress: Show progress bars.
    """

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    n_train: int = 800
    n_val: int = 60
    n_test: int = 200
    size: int = 64
    mark: int = 8
    model: str = "seqnorm_vit_nano_patch8"
    model_options: dict[str, Any] = field(default_factory=lambda: {"depth": 2})
    epochs: int = 40
    batch_size: int = 32
    lr: float = 1.5e-3
    work: Path = Path("views")
    out: Path = Path("views.csv")
    progress: bool = True


@dataclass(kw_only=True)
class VariablesOptions:
    """Study of clinical variables.

    Attributes:
        seeds: Seeds of the patients and of the training.
        n_train: Number of training cases.
        n_val: Number of validation cases.
        n_test: Number of test cases.
        size: Side of the images, in pixels.
        model: A model of images.
        model_options: Further arguments of the model.
        epochs: Number of passes over the training cases.
        batch_size: Cases per batch.
        lr: Peak learning rate.
        work: Folder for the images and runs.
        out: CSV file to write, with its tables and the machine next to it.
        progress: Show progress bars.
    """

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    n_train: int = 800
    n_val: int = 200
    n_test: int = 400
    size: int = 32
    model: str = "seqnorm_vit_nano_patch8"
    model_options: dict[str, Any] = field(default_factory=lambda: {"depth": 2})
    epochs: int = 20
    batch_size: int = 16
    lr: float = 1e-3
    work: Path = Path("variables")
    out: Path = Path("variables.csv")
    progress: bool = True


@dataclass(kw_only=True)
class PositionsOptions:
    """Study of positions.

    Attributes:
        pos: What positions start from: 'random' or 'learn' (sines and cosines), both learned, fixed 'sincos', 'none'.
        seeds: Seeds of the images and of the training.
        n_train: Number of training images.
        n_val: Number of validation images.
        n_test: Number of test images.
        size: Side of the images, in pixels.
        model: A model of images.
        model_options: Further arguments of the model.
        epochs: Number of passes over the training images.
        batch_size: Images per batch.
        lr: Peak learning rate.
        work: Folder for the images and runs.
        out: CSV file to write, with its tables and the machine next to it.
        progress: Show progress bars.
    """

    pos: list[str] = field(default_factory=lambda: ["random", "learn", "sincos", "none"])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    n_train: int = 400
    n_val: int = 100
    n_test: int = 200
    size: int = 64
    model: str = "seqnorm_vit_nano_patch8"
    model_options: dict[str, Any] = field(default_factory=lambda: {"depth": 3})
    epochs: int = 12
    batch_size: int = 16
    lr: float = 1e-3
    work: Path = Path("positions")
    out: Path = Path("positions.csv")
    progress: bool = True


@dataclass(kw_only=True)
class ConvergenceOptions:
    """Convergence study.

    Attributes:
        model: A model with SOFT attention and random weights.
        run: A trained run instead, with its preprocessing.
        size: Side of the square input of the model, in pixels.
        preset: Intensity scaling: 'radiograph', 'photo' or 'microscopy'.
        resize_mode: How images are brought to the square: 'pad', 'stretch' or 'crop' (the center square).
        count: Number of images, the first ones.
        precision: Arithmetic of the iteration.
        iterations: Number of iterations.
        seed: Seed of the random weights.
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
    """Attention maps.

    Attributes:
        at: Position of the query in the preprocessed image, as fractions of its width and height.
        layer: Number of the layer, from 0; negative numbers count from the last.
        out: PNG file to write.
    """

    at: list[float] = field(default_factory=lambda: [0.5, 0.5])
    layer: int = -1
    out: Path = Path("attention-maps.png")


@dataclass(kw_only=True)
class ExplainStudyOptions:
    """Study of explanation maps.

    Attributes:
        methods: Methods to compare.
        target: Class to explain, on images that have it; default: the predicted class, on images of all classes.
        count: Number of test images, of each class in turn.
        removal: How a token is removed: 'mean' (its patch becomes the image's mean) or 'blur' (it is blurred).
        steps: Number of steps of the deletion and insertion curves.
        orders: Number of random orders to compare with.
        randomized: Number of images whose maps are recomputed with random weights.
        radius: Radius in pixels of a finding given by the table's columns x and y, if it has no column radius; that of
            a cluster in a phantom.
        precision: Arithmetic of the curves; maps are always computed in float32.
        num_bootstrap: Number of bootstrap resamples of patients.
        seed: Seed of random orders, random weights and resamples.
        batch_size: Images per batch.
        table: Where the table that the runs were trained on is now, if it was moved.
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
class SizeStudyOptions:
    """Study of image sizes.

    Attributes:
        table: Where the run's table is now, if it was moved.
        progress: Show a progress bar.
    """

    table: Path | None = None
    progress: bool = True


@dataclass(kw_only=True)
class CoverageOptions:
    """Coverage simulation.

    Attributes:
        patients: Numbers of patients.
        images: Numbers of images per patient.
        positives: Fractions of the patients that are positive.
        separations: Distances between the classes in standard deviations of a negative image.
        spreads: Standard deviations of positive patients and images, relative to the negative ones.
        repeats: Number of simulated studies per setting.
        num_bootstrap: Number of bootstrap resamples in each.
        seed: Seed of the simulation.
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


@dataclass(kw_only=True)
class UnusualOptions:
    """Study of unusual images.

    Attributes:
        sets: Images of other kinds, each as NAME=PATH of a file, a folder or a table with a column path.
        table: Where the table that the run was trained on is now, if it was moved.
        count: Number of images of each set, taken evenly from all.
        out: Folder for the tables.
        batch_size: Images per batch.
        progress: Show a progress bar.
    """

    sets: list[str] = field(default_factory=list)
    table: Path | None = None
    count: int = 100
    out: Path = Path("unusual")
    batch_size: int = 16
    progress: bool = True


@dataclass(kw_only=True)
class SurvivalStudyOptions:
    """Survival on computed images.

    Attributes:
        findings: 'graded' (the hazard grows with the size of a mark) and 'present' (a mark is there or not).
        losses: Losses of softfree train.
        seeds: Seeds of the images and of the trainings.
        hazard_ratio: Of one standard deviation of the size, or of a mark that is present.
        n_train: Number of training images.
        n_val: Number of validation images.
        n_test: Number of test images.
        size: Side of the images in pixels.
        model: A named model.
        model_options: Further arguments of the model.
        epochs: Number of epochs.
        batch_size: Images per batch.
        lr: Peak learning rate.
        work: Folder for images and runs.
        out: CSV file of the results.
        progress: Show progress bars.
    """

    findings: list[str] = field(default_factory=lambda: ["graded", "present"])
    losses: list[Literal["hazard", "cox"]] = field(default_factory=lambda: ["hazard", "cox"])
    seeds: list[int] = field(default_factory=lambda: [0, 1])
    hazard_ratio: float = 3.0
    n_train: int = 600
    n_val: int = 200
    n_test: int = 600
    size: int = 48
    model: str = "seqnorm_vit_nano_patch16"
    model_options: dict[str, Any] = field(default_factory=lambda: {"patch_size": 8, "depth": 2})
    epochs: int = 20
    batch_size: int = 32
    lr: float = 1e-3
    work: Path = Path("survival_work")
    out: Path = Path("survival.csv")
    progress: bool = True


@dataclass(kw_only=True)
class LongRangeOptions:
    """The Long Range Arena.

    Attributes:
        tasks: 'listops' and 'pathfinder' (generated), 'text' (aclImdb), 'retrieval' (AAN) and 'image' (CIFAR-10), whose
            files --data must have; 'fashion' (Debian's dataset-fashion-mnist) stands in for 'image'.
        attentions: Names of attention methods.
        seeds: Seeds of the trainings.
        preset: Recipe of training: 'nystromformer' or 'skyformer', the papers whose results stand beside.
        steps_fraction: Share of the published steps, from 0 to 1.
        samples_fraction: Share of the samples of each split; below 1, the result is not that of the arena.
        data: Folder with official files as they are unpacked: aclImdb, cifar-10-batches-bin, new_aan_pairs.*.tsv, and
            basic_*.tsv of ListOps, which then are not generated.
        cache: Folder for generated samples; default: data in the folder of the study.
        data_seed: Seed of generated samples.
        precision: Arithmetic of products, 'fp32' or 'bf16'; the latter is no faster on a CPU at this width.
        features: Landmarks of SOFT and Nystromformer, rows of Linformer's maps, random features of Performer.
        group_symbols: Symbols of a batch that are processed at a time.
        lengths: Lengths at which time and memory are measured.
        minutes: Stop after this time with what was reached; the same command continues.
        checkpoint_minutes: Time between checkpoints of a training.
        jobs: Number of parallel trainings.
        threads: Threads of each; default: the cores, shared by the trainings.
        device: Where to train, 'cpu' or 'cuda'; time and memory by length are always measured on the CPU.
        out: Folder for the record and the tables; an interrupted study resumes there.
        progress: Print lines about the progress.
    """

    tasks: list[str] = field(default_factory=lambda: ["listops"])
    attentions: list[str] = field(default_factory=lambda: ["seqnorm", "soft_norm", "softmax", "nystromformer", "sima"])
    seeds: list[int] = field(default_factory=lambda: [0])
    preset: Literal["nystromformer", "skyformer"] = "nystromformer"
    steps_fraction: float = 1.0
    samples_fraction: float = 1.0
    data: Path | None = None
    cache: Path | None = None
    data_seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    features: int = 128
    group_symbols: int = 8192
    lengths: list[int] = field(default_factory=lambda: [1024, 2048, 4096, 8192, 16384])
    minutes: float | None = None
    checkpoint_minutes: float = 5.0
    jobs: int = 1
    threads: int | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    out: Path = Path("long_range")
    progress: bool = True
