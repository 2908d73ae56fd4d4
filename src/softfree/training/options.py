"""A training: its table, images, model, recipe and place."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

PresetName = Literal["radiograph", "photo", "microscopy"]
ResizeMode = Literal["pad", "stretch", "crop", "native"]
PoolName = Literal["avg", "token", "topk", "mean_topk", "lse", "gated", "mean_std"]
Precision = Literal["fp32", "bf16", "fp16"]
Split = Literal["train", "val", "test"]


@dataclass(kw_only=True)
class TableOptions:
    """The table and its columns.

    Attributes:
        label: Column with the class of each image.
        labels: Several 0/1 columns instead, one per finding (empty cell = unknown), e.g. '[effusion, nodule]'.
        positive: The positive class of a two-class task; default: the last in alphabetical order.
        image_root: Folder that relative paths start from and that all paths must lie in; default: the table's folder.
        seed: Seed of the split (when the table has none), the initial weights, the order and the augmentation.
        split_from: Run directory whose split is kept for a table without one; patients that it did not have are drawn.
    """

    label: str = "label"
    labels: list[str] | None = None
    positive: str | None = None
    image_root: Path | None = None
    seed: int = 0
    split_from: Path | None = None


@dataclass(kw_only=True)
class ImageOptions:
    """How images are prepared.

    Attributes:
        preset: Intensity scaling and augmentation: 'radiograph' (gray, each image to mean 0 and deviation 1),
            'photo' (color, mild color changes) or 'microscopy' (color, any rotation).
        size: Side of the square that the model sees, in pixels.
        resize_mode: How images are brought to the square: 'pad' (nothing is lost), 'stretch' or 'crop' (the center
            square); 'native' keeps their own size.
        channels: 1 (gray) or 3 (color); default: the preset's.
        cache: Where prepared images are kept between epochs: 'memory', 'none', a folder, or 'auto' (memory when
            they fit in a quarter of it). A folder holds pixels of your images until you delete it.
        num_workers: Processes that read images beside the training.
    """

    preset: PresetName = "radiograph"
    size: int = 512
    resize_mode: ResizeMode = "pad"
    channels: Literal[1, 3] | None = None
    cache: str = "auto"
    num_workers: int = 0


@dataclass(kw_only=True)
class VolumeOptions:
    """How volumes are prepared: for models named ..._vit3d_...

    Attributes:
        modality: Intensity scaling and augmentation: 'mr' (each channel to mean 0 and deviation 1) or 'ct' (window).
        shape: Voxels that the model sees: slices, rows, columns.
        spacing: Millimeters between slices, rows and columns, to which volumes are resampled; default: as they are.
        window: Lowest and highest value of CT; default: -1000 to 1000.
        series: YAML file of rules that make channels of the DICOM series in a folder, as breast MRI needs.
    """

    modality: Literal["mr", "ct"] = "mr"
    shape: list[int] = field(default_factory=lambda: [48, 64, 48])
    spacing: list[float] | None = None
    window: list[float] | None = None
    series: Path | None = None


@dataclass(kw_only=True)
class SlideOptions:
    """How whole slides are prepared, and bags of features.

    Attributes:
        mpp: Micrometers per pixel at which slides are read, whose patches are then the tokens; default: no slides.
        tissue: Read the bounding box of the tissue only.
        group: Make one bag of all rows of a patient (models named ..._bag_..., tables made by softfree features).
    """

    mpp: float | None = None
    tissue: bool = True
    group: bool = False


@dataclass(kw_only=True)
class ModelOptions:
    """The model.

    Attributes:
        model: A name of `softfree models`, such as seqnorm_vit_tiny_patch16.
        weights: Pretrained ViT weights: a safetensors file, or a name on the Hugging Face hub.
        weights_grid: Rows and columns of the positions in them, e.g. '[12, 101]', where they lie on no square and
            nothing beside the file says so.
        stem: 'pool' (a few 3 x 3 convolutions with maxima between them, which carry a finding much smaller than a patch
            to its token), 'conv' (with strides instead: half the time) or 'patch' (one projection a patch).
        pool: 'mean_topk' (half the mean of each class's highest token logits, which sees findings on few of many,
            half the mean of all), 'topk' (the highest alone), 'avg' (average of all tokens), 'token' (a class token),
            'lse' (log-sum-exp of the token logits with learned sharpness), 'gated' (attention pooling) or 'mean_std'
            (average and standard deviation).
        drop_path: Rate of stochastic depth in the last block, rising linearly from 0 in the first.
        layer_scale: Start value of the learned scale of each branch; default: none.
        grad_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        mlp_chunk: Tokens that an MLP takes at once in training, recomputed in the backward pass: with 4096 most of the
            memory of large images is saved, for about a quarter more time; default: all.
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
class OptimizerOptions:
    """The training recipe: AdamW, linear warm-up, cosine decay.

    Attributes:
        epochs: Passes over the training images.
        start_size: Side of the images in the first epochs, in pixels, doubled in steps up to --size over the first half
            of the epochs: most of the time of large images is saved. Default: --size from the beginning.
        batch_size: Images a step, over all devices together.
        grad_accum: Steps whose gradients are added up before the weights change.
        lr: Highest learning rate.
        weight_decay: Decay of weight matrices; norms, biases and positions have none.
        warmup_fraction: Fraction of all steps over which the learning rate rises.
        layer_decay: Factor on the rate from each layer to the one below (0.65 to 0.9 for pretrained weights).
        grad_clip: Largest norm of the gradient; 0 for none.
        ema: Decay of an average of the weights that is used instead of the last ones, e.g. 0.999.
        label_smoothing: Share of the target given to all classes alike.
        mixup: Alpha of mixup; color presets and exclusive classes only.
        cutmix: Alpha of cutmix, which takes turns with mixup; likewise.
        class_weights: Weigh classes inversely to their frequency.
        augment: Random changes of the training images.
        auto_augment: Use a timm policy instead, such as 'rand-m9-mstd0.5-inc1': random crops of the whole image, flips,
            this policy and random erasing; color images only.
        random_erasing: Probability with which a policy erases a rectangle.
        patience: Stop after so many epochs without a better validation AUROC and keep the best epoch; default: train
            to the end and keep the last.
        precision: Arithmetic of matrix products: 'fp32', 'bf16' or 'fp16'.
        teacher: Run directory of a trained model whose outputs are learned too (distillation).
        teacher_weight: Share of the teacher in the loss, from 0 to 1; the labels have the rest.
        teacher_temperature: What both models' logits are divided by where they are compared: above 1 the less likely
            classes count for more.
    """

    epochs: int = 30
    start_size: int | None = None
    batch_size: int = 16
    grad_accum: int = 1
    lr: float = 5e-4
    weight_decay: float = 0.05
    warmup_fraction: float = 0.1
    layer_decay: float = 1.0
    grad_clip: float = 1.0
    ema: float | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    class_weights: bool = False
    augment: bool = True
    auto_augment: str | None = None
    random_erasing: float = 0.25
    patience: int | None = None
    precision: Precision = "fp32"
    teacher: Path | None = None
    teacher_weight: float = 0.5
    teacher_temperature: float = 2.0


@dataclass(kw_only=True)
class StreamOptions:
    """Samples that do not fit in memory.

    Attributes:
        stream: Pass a sample's tokens in chunks: 'auto' (when the plan says that it does not fit), 'always' or 'never'.
            The result is the same; only attentions that are sums over tokens can (seqnorm, sima, galerkin).
        token_store: Folder on a disk where the tokens of streamed samples wait; default: main memory.
        token_bf16: Keep them in bfloat16: half the space, rounded to three digits.
        token_chunk: Tokens that are computed at once.
    """

    stream: Literal["auto", "always", "never"] = "auto"
    token_store: Path | None = None
    token_bf16: bool = False
    token_chunk: int = 8192

    @property
    def streaming(self) -> dict[str, Any]:
        """Give these options alone, for others that begin with them."""
        return {one.name: getattr(self, one.name) for one in fields(StreamOptions)}


@dataclass(kw_only=True)
class RunOptions:
    """Where it runs and what it leaves.

    Attributes:
        out: The run directory, made new.
        show_images: Show the worst errors as images in the report (pixels of patients leave the data folder).
        maps: Show so many samples under maps of what the model looked at in the report (likewise).
        accelerator: 'auto', 'cpu', 'gpu', 'mps'.
        devices: Number of devices on a machine.
        nodes: Number of machines.
        strategy: Lightning's name for how devices share the work: 'auto', 'ddp', 'fsdp'.
        progress: Show progress bars.
    """

    out: Path = Path("run")
    show_images: bool = False
    maps: int = 0
    accelerator: str = "auto"
    devices: int | str = 1
    nodes: int = 1
    strategy: str = "auto"
    progress: bool = True


@dataclass(kw_only=True)
class TrainOptions(
    TableOptions, ImageOptions, VolumeOptions, SlideOptions, ModelOptions, OptimizerOptions, StreamOptions, RunOptions
):
    """All options of a training; see the classes that it joins.

    Attributes:
        table: CSV or Parquet file, one row a sample.
    """

    table: Path
