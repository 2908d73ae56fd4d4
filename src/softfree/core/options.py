"""Options of training, which a run keeps in its configuration, and groups of them that other commands share."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

PresetName = Literal["radiograph", "photo", "microscopy"]
ResizeMode = Literal["pad", "stretch", "crop", "native"]
PoolName = Literal["avg", "token", "topk", "mean_topk"]
Precision = Literal["fp32", "bf16", "fp16"]
Split = Literal["train", "val", "test"]
Target = Literal["ordinal", "regression", "survival"]
NumberLossName = Literal["huber", "mse", "l1"]
SurvivalLossName = Literal["hazard", "cox"]
LossName = Literal["huber", "mse", "l1", "hazard", "cox"]


@dataclass(kw_only=True)
class TableOptions:
    """Table.

    Attributes:
        label: Column with the class of each image, or with its number or time (--task).
        event: Column of --task survival with 1 for rows whose --label is the time of the event, and 0 for those whose
            observation ended then without it.
        labels: Several 0/1 columns instead, one per finding (empty cell = unknown), e.g. '[effusion, nodule]'.
        positive: Positive class of a two-class task; default: the last in alphabetical order.
        task: 'ordinal' if the classes of --label have an order, such as grades, 'regression' if it holds numbers,
            'survival' if it holds times to an event (--event); default: classes without an order, or findings.
        classes_in_order: All classes of an ordinal task from the lowest to the highest, e.g. '[none, mild, severe]';
            default: whole numbers by their value.
        variables: Columns with clinical variables that the model takes beside the images, e.g. '[age, sex]': numbers,
            or categories; an empty cell is unknown.
        categorical: Those of them whose numbers are categories, e.g. '[scanner]'.
        targets: YAML file of several targets of one model, each with name, kind (classes, findings, ordinal, regression
            or survival), its columns, and weight; instead of the options above.
        image_root: Folder that relative paths start from and that must contain all files; default: the table's folder.
        seed: Seed of the split (if the table has none), the initial weights, the order and the augmentation.
        split_from: Run directory whose split is reused for a table without one; patients it did not have are assigned
            at random.
        fold_file: Folds of a cross-validation (folds.json, as softfree auto writes it), used in place of any split.
        fold: Number of the fold that is held out, from 1.
        repeat: Number of the draw of folds, from 1.
    """

    label: str = "label"
    event: str | None = None
    labels: list[str] | None = None
    positive: str | None = None
    task: Target | None = None
    classes_in_order: list[str] | None = None
    variables: list[str] | None = None
    categorical: list[str] | None = None
    targets: Path | None = None
    image_root: Path | None = None
    seed: int = 0
    split_from: Path | None = None
    fold_file: Path | None = None
    fold: int | None = None
    repeat: int = 1


@dataclass(kw_only=True)
class ImageOptions:
    """Image preprocessing.

    Attributes:
        preset: Intensity scaling and augmentation: 'radiograph' (gray, each image normalized to mean 0 and standard
            deviation 1), 'photo' (color, mild color changes) or 'microscopy' (color, any rotation).
        size: Side of the square input of the model, in pixels.
        resize_mode: How images are fitted to the square: 'pad' (nothing is lost), 'stretch' or 'crop' (the center
            square); 'native' keeps their own size.
        channels: 1 (gray) or 3 (color); default: the preset's.
        cache: Where preprocessed images are kept between epochs: 'memory', 'none', a folder, or 'auto' (memory if they
            fit in a quarter of it). A folder holds pixels of your images until you delete it.
        num_workers: Number of processes that read images.
        views: YAML file with the settings of each view of a case, such as 'ct: {kind: volume, modality: ct}', where the
            images of a case differ in kind, size or preset; default: all are of one kind and size.
    """

    preset: PresetName = "radiograph"
    size: int = 512
    resize_mode: ResizeMode = "pad"
    channels: Literal[1, 3] | None = None
    cache: str = "auto"
    num_workers: int = 0
    views: Path | None = None


@dataclass(kw_only=True)
class VolumeOptions:
    """Volume preprocessing (models with vit3d or 3d in their name).

    Attributes:
        modality: Intensity scaling and augmentation: 'mr' (each channel normalized to mean 0 and standard deviation 1)
            or 'ct' (window).
        shape: Input size of the model in voxels: slices, rows, columns.
        spacing: Spacing in millimeters between slices, rows and columns to which volumes are resampled; default: their
            own.
        window: Lowest and highest CT value; default: '[-1000, 1000]'.
        series: YAML file of rules that select the DICOM series in a folder as channels, as breast MRI needs.
    """

    modality: Literal["mr", "ct"] = "mr"
    shape: list[int] = field(default_factory=lambda: [48, 64, 48])
    spacing: list[float] | None = None
    window: list[float] | None = None
    series: Path | None = None


@dataclass(kw_only=True)
class SlideOptions:
    """Whole slides and bags of features.

    Attributes:
        mpp: Resolution at which whole slides are read, in micrometers per pixel; the patches of a slide are then the
            tokens. Default: samples are images.
        tissue: Read only the bounding box of the tissue.
    """

    mpp: float | None = None
    tissue: bool = True


@dataclass(kw_only=True)
class ModelOptions:
    """Model.

    Attributes:
        model: A name listed by 'softfree models'.
        weights: Pretrained ViT weights: a safetensors file, or a name on the Hugging Face Hub.
        weights_grid: Rows and columns of their position embeddings, e.g. '[12, 101]', if they are not square and no
            configuration beside the file states them.
        stem: 'pool' (a few 3 x 3 convolutions with max pooling between them, which carry a finding much smaller than a
            patch to its token), 'conv' (strided convolutions: half the time) or 'patch' (one linear projection per
            patch).
        pool: How tokens become the features that are classified: 'avg' (their mean), 'topk' (the mean of each
            feature's highest values, so that a finding on few of many tokens counts), 'mean_topk' (the average of
            both) or 'token' (class token).
        drop_path: Stochastic depth rate of the last block, rising linearly from 0 in the first.
        layer_scale: Initial value of a learned scale on each residual branch; default: no such scale.
        grad_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        mlp_chunk: Number of tokens that an MLP processes at a time in training, recomputed in the backward pass: 4096
            saves most of the memory of large images for about a quarter more time. Default: all tokens.
        model_options: Further arguments of the model, e.g. '{patch_size: 8}'.
        attention_options: Arguments of the attention, e.g. '{affine: false}'.
    """

    model: str = "seqnorm_vit_tiny_patch16"
    weights: str | None = None
    weights_grid: list[int] | None = None
    stem: Literal["patch", "conv", "pool"] = "pool"
    pool: PoolName = "mean_topk"
    drop_path: float = 0.1
    layer_scale: float | None = None
    grad_checkpointing: bool = False
    mlp_chunk: int | None = None
    model_options: dict[str, Any] = field(default_factory=dict)
    attention_options: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class StreamOptions:
    """Samples larger than memory.

    Attributes:
        stream: Process the tokens of a sample in chunks: 'auto' (if the plan says that the sample does not fit),
            'always' or 'never'. The result is the same; only attentions that are sums over tokens can stream
            (seqnorm, sima, galerkin).
        token_store: Folder on a disk for the tokens of streamed samples; default: main memory.
        token_bf16: Store them in bfloat16: half the space, rounded to three digits.
        token_chunk: Number of tokens processed at a time.
    """

    stream: Literal["auto", "always", "never"] = "auto"
    token_store: Path | None = None
    token_bf16: bool = False
    token_chunk: int = 8192

    @property
    def streaming(self) -> dict[str, Any]:
        """Return only these options, as keywords for options that include them."""
        return {option.name: getattr(self, option.name) for option in fields(StreamOptions)}


@dataclass(kw_only=True)
class BulkOptions:
    """Bulk work in a folder, continued by the same command.

    Attributes:
        workers: Number of processes; default: one for each processor, or one with a GPU; 0: all in this process, which
            a file may then end.
        block: Inputs that a process takes at a time; batches are formed within a block; default: 32, of maps 4, of
            slides 1.
        shard: This machine's share of the inputs: 0/4, 1/4, 2/4 or 3/4 for four machines that share the folder.
        order: Process 'newest' or 'oldest' files first, or the rows of a table by one of its columns, such as
            'priority', or '-priority' for the highest first; default: in the order given.
        limit: Process only this many inputs, the first in the order; the others are left for another time.
        until: Time at which no further block is begun, such as 07:00 or 2027-01-31T07:00.
        keep_going: Go on even if nearly all of the first 1,000 inputs cannot be read.
        engine: 'local', processes of this machine, or 'ray', a Ray cluster whose nodes share the folder.
        ray_address: Address of the cluster, 'auto' or ray://HOST:PORT; default: a cluster on this machine.
        csv: Also write the rows as CSV at the end, beside the Parquet file; without columns of lists.
    """

    workers: int | None = None
    block: int | None = None
    shard: str | None = None
    order: str | None = None
    limit: int | None = None
    until: str | None = None
    keep_going: bool = False
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    csv: bool = False


@dataclass(kw_only=True)
class OptimizerOptions:
    """Training recipe (AdamW, linear warmup, cosine decay).

    Attributes:
        epochs: Number of passes over the training images.
        start_size: Side of the images in the first epochs, in pixels, doubled in steps up to --size over the first half
            of the epochs; saves most of the time on large images. Default: --size throughout.
        batch_size: Images per batch, over all devices together.
        grad_accum: Number of batches whose gradients are accumulated before the weights are updated.
        lr: Peak learning rate; 'find' chooses it by 100 steps with rising rates, on a copy of the model.
        weight_decay: Weight decay of matrices; norms, biases and position embeddings have none.
        warmup_fraction: Fraction of all steps over which the learning rate rises.
        layer_decay: Factor on the learning rate from each layer to the one below (0.65 to 0.9 for pretrained weights).
        grad_clip: Maximum norm of the gradient; 0 for no clipping.
        ema: Decay of an exponential moving average of the weights, e.g. 0.999, which is then used in place of the final
            weights.
        loss: Of a regression, on the standardized target: 'huber' (quadratic up to one standard deviation, linear
            beyond, so that outliers count less), 'mse' or 'l1'; default: 'huber'. Of survival: 'hazard' (the likelihood
            of the hazards in time intervals), or 'cox' (one hazard ratio; it compares only samples of one batch, so
            that --batch-size changes it, and --grad-accum does not replace a larger batch); default: 'hazard'.
        cuts: Ends of the time intervals of '--loss hazard', in the unit of --label; default: ten or fewer with about
            equal numbers of training events.
        horizons: Times at which survival is predicted and evaluated, in the unit of --label; default: the quartiles of
            the training events.
        label_smoothing: Fraction of the target spread evenly over all classes.
        mixup: Alpha of mixup; color presets and exclusive classes only.
        cutmix: Alpha of CutMix, which alternates with mixup; same restrictions.
        class_weights: Weight classes inversely to their frequency.
        augment: Augment the training images.
        view_dropout: Share of the images of a case (tables with case_id) that training leaves out at random, so
            that the model also works with fewer.
        variable_dropout: Share of the clinical variables that training hides at random, and of the cases of which it
            hides all, so that the model also works without.
        auto_augment: Use a timm policy instead of the preset's augmentation, such as 'rand-m9-mstd0.5-inc1': random
            crops of the whole image, flips, this policy and random erasing; color images only.
        random_erasing: Probability with which --auto-augment erases a rectangle.
        coverage: Share of new samples of each class whose conformal set shall contain it, or of a regression whose
            interval shall contain the truth; more gives larger sets and wider intervals.
        patience: Stop after this many epochs without a better validation AUROC (of a regression, mean absolute error;
            of survival, C-index; of several targets the mean of their scores, which are 0 for guessing and 1 for no
            error) and keep the best epoch; default: train to the end and keep the last epoch.
        precision: Arithmetic of matrix products.
        teacher: Run directory of a trained model to distill from.
        teacher_weight: Weight of the teacher in the loss, from 0 to 1; the labels have the rest.
        teacher_temperature: Temperature that divides both models' logits in the distillation loss; above 1, less likely
            classes count for more.
    """

    epochs: int = 30
    start_size: int | None = None
    batch_size: int = 16
    grad_accum: int = 1
    lr: float | Literal["find"] = 5e-4
    weight_decay: float = 0.05
    warmup_fraction: float = 0.1
    layer_decay: float = 1.0
    grad_clip: float = 1.0
    ema: float | None = None
    loss: LossName | None = None
    cuts: list[float] | None = None
    horizons: list[float] | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    class_weights: bool = False
    augment: bool = True
    view_dropout: float = 0.2
    variable_dropout: float = 0.1
    auto_augment: str | None = None
    random_erasing: float = 0.25
    coverage: float = 0.9
    patience: int | None = None
    precision: Precision = "fp32"
    teacher: Path | None = None
    teacher_weight: float = 0.5
    teacher_temperature: float = 2.0


@dataclass(kw_only=True)
class RunOptions:
    """Run.

    Attributes:
        out: Run directory to create.
        show_images: Show the worst errors as images in the report (contains patient pixels).
        maps: Number of saliency maps to include in the report (contains patient pixels).
        accelerator: 'auto', 'cpu', 'gpu' or 'mps'.
        devices: Number of devices per machine, or 'auto'.
        nodes: Number of machines.
        strategy: How devices share the work, by Lightning's name: 'auto', 'ddp' or 'fsdp'.
        logger: Where curves and results are logged, besides CSV: 'tensorboard', 'mlflow', 'wandb', a list of them, or
            'csv' for nothing else. No paths, names or ids are sent.
        progress: Show progress bars.
    """

    out: Path = Path("run")
    show_images: bool = False
    maps: int = 0
    accelerator: str = "auto"
    devices: int | str = 1
    nodes: int = 1
    strategy: str = "auto"
    logger: list[str] | str = field(default_factory=lambda: ["tensorboard"])
    progress: bool = True


@dataclass(kw_only=True)
class TrainOptions(
    TableOptions, ImageOptions, VolumeOptions, SlideOptions, ModelOptions, OptimizerOptions, StreamOptions, RunOptions
):
    """All options of a training run.

    Attributes:
        table: CSV or Parquet file with one row per sample, or a folder with one subfolder per class.
    """

    table: Path
