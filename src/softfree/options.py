"""Everything a user can set, as typed fields: the same names on the command line, in YAML and in Python.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

PresetName = Literal["radiograph", "photo", "microscopy"]
Fit = Literal["pad", "stretch", "crop", "native"]
Precision = Literal["32", "bf16", "16"]
PrecisionGiven = Literal["32", "bf16", "16", 32, 16]  # YAML reads 32 as a number; kept as text
Split = Literal["train", "val", "test"]


@dataclass(kw_only=True)
class TableOptions:
    """The table and its columns.

    Attributes:
        label: Column with the class of each picture.
        labels: Several 0/1 columns instead, one per finding (empty cell = unknown), e.g. '[effusion, nodule]'.
        positive: The positive class of a two-class task; default: the last in alphabetical order.
        images: Folder that relative paths start from and that all paths must lie in; default: the table's folder.
        seed: Seed of the split (when the table has none), the initial weights, the order and the augmentation.
    """

    label: str = "label"
    labels: list[str] | None = None
    positive: str | None = None
    images: Path | None = None
    seed: int = 0


@dataclass(kw_only=True)
class PictureOptions:
    """How pictures are prepared.

    Attributes:
        preset: Intensity scaling and augmentation: 'radiograph' (gray, each picture to mean 0 and deviation 1),
            'photo' (colour, mild colour changes) or 'microscopy' (colour, any rotation).
        size: Side of the square that the model sees, in pixels.
        fit: Into the square by padding (nothing is lost), stretching, or cropping the centre; or 'native': as it is.
        channels: 1 (gray) or 3 (colour); default: the preset's.
        cache: Where prepared pictures are kept between epochs: 'memory', 'none', a folder, or 'auto' (memory when
            they fit in a quarter of it). A folder holds pixels of your pictures until you delete it.
        workers: Processes that read pictures beside the training.
    """

    preset: PresetName = "radiograph"
    size: int = 512
    fit: Fit = "pad"
    channels: Literal[1, 3] | None = None
    cache: str = "auto"
    workers: int = 0


@dataclass(kw_only=True)
class ModelOptions:
    """The model.

    Attributes:
        model: A name of `softfree models`, such as seqnorm_vit_tiny_patch16.
        weights: Pretrained ViT weights: a safetensors file, or a name on the Hugging Face hub.
        stem: 'patch' (one projection a patch) or 'conv' (a few 3 x 3 convolutions, better from scratch).
        pool: Average of all tokens, or a class token.
        drop_path: Rate of stochastic depth in the last block, rising linearly from 0 in the first.
        layer_scale: Start value of the learned scale of each branch; default: none.
        checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        mlp_chunk: Tokens that an MLP takes at once in training, recomputed in the backward pass: with 4096 most of the
            memory of large pictures is saved, for about a quarter more time; default: all.
        model_options: Further arguments of the model, e.g. '{patch_size: 8}'.
        attention_options: Arguments of the attention, e.g. '{affine: false}'.
    """

    model: str = "seqnorm_vit_tiny_patch16"
    weights: str | None = None
    stem: Literal["patch", "conv"] = "conv"
    pool: Literal["avg", "token"] = "avg"
    drop_path: float = 0.1
    layer_scale: float | None = None
    checkpointing: bool = False
    mlp_chunk: int | None = None
    model_options: dict[str, Any] = field(default_factory=dict)
    attention_options: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class OptimizerOptions:
    """The training recipe: AdamW, linear warm-up, cosine decay.

    Attributes:
        epochs: Passes over the training pictures.
        batch: Pictures a step, over all devices together.
        accumulate: Steps whose gradients are added up before the weights change.
        lr: Highest learning rate.
        weight_decay: Decay of weight matrices; norms, biases and positions have none.
        warmup: Part of all steps in which the rate rises.
        layer_decay: Factor on the rate from each layer to the one below (0.65 to 0.9 for pretrained weights).
        clip: Largest norm of the gradient; 0 for none.
        ema: Decay of an average of the weights that is used instead of the last ones, e.g. 0.999.
        label_smoothing: Share of the target given to all classes alike.
        mixup: Alpha of mixup; colour presets and exclusive classes only.
        class_weights: Weigh classes inversely to their frequency.
        augment: Random changes of the training pictures.
        patience: Stop after so many epochs without a better validation AUROC and keep the best epoch; default: train
            to the end and keep the last.
        precision: Arithmetic of the products: 32, bf16 or 16 bits.
    """

    epochs: int = 30
    batch: int = 16
    accumulate: int = 1
    lr: float = 5e-4
    weight_decay: float = 0.05
    warmup: float = 0.1
    layer_decay: float = 1.0
    clip: float = 1.0
    ema: float | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    class_weights: bool = False
    augment: bool = True
    patience: int | None = None
    precision: PrecisionGiven = "32"

    def __post_init__(self) -> None:
        """Make text of a type that YAML read as a number."""
        self.precision = str(self.precision)  # type: ignore[assignment]


@dataclass(kw_only=True)
class RunOptions:
    """Where it runs and what it leaves.

    Attributes:
        out: The run directory, made new.
        pictures: Show the worst errors as pictures in the report (pixels of patients leave the data folder).
        accelerator: 'auto', 'cpu', 'gpu', 'mps'.
        devices: Number of devices on a machine.
        nodes: Number of machines.
        strategy: Lightning's name for how devices share the work: 'auto', 'ddp', 'fsdp'.
        progress: Show progress bars.
    """

    out: Path = Path("run")
    pictures: bool = False
    accelerator: str = "auto"
    devices: int | str = 1
    nodes: int = 1
    strategy: str = "auto"
    progress: bool = True


@dataclass(kw_only=True)
class TrainOptions(TableOptions, PictureOptions, ModelOptions, OptimizerOptions, RunOptions):
    """All options of a training; see the classes that it joins.

    Attributes:
        table: CSV or Parquet file, one row a picture.
    """

    table: Path


@dataclass(kw_only=True)
class EvaluateOptions:
    """Numbers with intervals from a trained run.

    Attributes:
        table: Another table than the one the run was trained on; needs out.
        images: Folder that the table's paths start from; default: the table's folder.
        split: The rows to measure.
        by: Columns to measure in subgroups, e.g. '[sex, scanner]'.
        against: Another run, compared on the same pictures.
        margin: Loss of AUROC that is still called as good (non-inferiority margin).
        pictures: Show the worst errors as pictures in the report.
        out: Folder for the results; default: the run itself.
        resamples: Bootstrap resamples.
        seed: Seed of the bootstrap.
        batch: Pictures at once.
        workers: Processes that read pictures.
        progress: Show progress bars.
    """

    table: Path | None = None
    images: Path | None = None
    split: Split = "test"
    by: list[str] = field(default_factory=list)
    against: Path | None = None
    margin: float | None = None
    pictures: bool = False
    out: Path | None = None
    resamples: int = 2000
    seed: int = 0
    batch: int = 16
    workers: int = 0
    progress: bool = True


@dataclass(kw_only=True)
class PredictOptions:
    """Probabilities for new pictures.

    Attributes:
        out: CSV or Parquet file to write; default: predictions.csv.
        batch: Pictures at once.
        workers: Processes that read pictures.
        frame: Frame of multi-frame files, counted from 0; default: the first.
        progress: Show a progress bar.
    """

    out: Path = Path("predictions.csv")
    batch: int = 16
    workers: int = 0
    frame: int | None = None
    progress: bool = True


@dataclass(kw_only=True)
class CheckOptions(TableOptions):
    """An audit of a table before training.

    Attributes:
        workers: Threads that read pictures.
        progress: Show a progress bar.
    """

    workers: int = 2
    progress: bool = True


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


@dataclass(kw_only=True)
class LoaderBenchOptions(PictureOptions):
    """Pictures a second that reading and transforming give, beside what training takes.

    Attributes:
        model: The model whose training rate is measured.
        label: Column with the class of each picture.
        batch: Pictures a step.
        seconds: Time for each measurement, of which the median of three counts.
        out: CSV file to write, with a JSON file of the machine beside it.
    """

    model: str = "seqnorm_vit_nano_patch16"
    label: str = "label"
    batch: int = 8
    seconds: float = 10.0
    out: Path | None = None


@dataclass(kw_only=True)
class SpeedOptions:
    """What every benchmark of speed has.

    Attributes:
        precision: Types of weights and input, e.g. '[32, bf16]'.
        passes: 'forward' and 'training' (forward and backward; of a model with the optimizer's step).
        batch: Samples at once.
        seconds: Time for each case after its first run; the cases of one size run in turn.
        limit: Leave out a case whose single run would take longer, in seconds.
        threads: Threads of PyTorch; default: its own choice.
        device: 'cpu' or 'cuda'.
        out: Folder for the rows (CSV), machine and options (JSON), tables (Markdown) and plots.
    """

    precision: list[PrecisionGiven] = field(default_factory=lambda: ["32", "bf16"])
    passes: list[Literal["forward", "training"]] = field(default_factory=lambda: ["forward", "training"])
    batch: int = 1
    seconds: float = 3.0
    limit: float = 60.0
    threads: int | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    out: Path | None = None

    def __post_init__(self) -> None:
        """Make text of types that YAML read as numbers."""
        self.precision = [str(one) for one in self.precision]  # type: ignore[misc]


@dataclass(kw_only=True)
class AttentionBenchOptions(SpeedOptions):
    """One attention sublayer: its time and memory over the length of the sequence.

    Attributes:
        tokens: Sequence lengths N.
        width: Features C of a token.
        heads: Number of heads H.
        methods: Attentions, SeqNorm with its order; the bare products are always there.
        compile: Through torch.compile.
    """

    tokens: list[int] = field(default_factory=lambda: [196, 1024, 4096, 16384, 65536, 262144])
    width: int = 384
    heads: int = 6
    methods: list[str] = field(
        default_factory=lambda: ["softmax", "sima", "seqnorm literal", "seqnorm folded", "seqnorm gram"]
    )
    compile: bool = False


@dataclass(kw_only=True)
class ModelBenchOptions(SpeedOptions):
    """Whole models: their time and memory over the side of the picture.

    Attributes:
        sides: Sides of the picture in pixels.
        models: Names of softfree's models, SeqNorm's perhaps with an order.
        peer: Names of timm's models to measure beside.
        checkpointing: Train softfree's models with checkpointed blocks.
        mlp_chunk: Train softfree's models with MLPs of so many tokens at once.
        compile: Through torch.compile.
    """

    sides: list[int] = field(default_factory=lambda: [224, 512, 1024, 2048, 4096])
    models: list[str] = field(
        default_factory=lambda: ["seqnorm_vit_small_patch16", "seqnorm_vit_small_patch16 literal"]
    )
    peer: list[str] = field(default_factory=lambda: ["vit_small_patch16_224"])
    checkpointing: bool = False
    mlp_chunk: int | None = None
    compile: bool = False


@dataclass(kw_only=True)
class OrderBenchOptions(SpeedOptions):
    """SeqNorm's orders of evaluation: which is the fastest from how many tokens on.

    Attributes:
        widths: Features C.
        multiples: Sequence lengths as multiples of C.
    """

    widths: list[int] = field(default_factory=lambda: [192, 384, 768])
    multiples: list[float] = field(default_factory=lambda: [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


@dataclass(kw_only=True)
class DemoOptions:
    """The main job on computed pictures (phantoms): no file and no network needed.

    Attributes:
        out: Folder to write to, made new.
        seed: Seed of the phantoms and of the training.
        progress: Show progress bars.
    """

    out: Path = Path("softfree-demo")
    seed: int = 0
    progress: bool = True


@dataclass(kw_only=True)
class PlanOptions:
    """Memory and work of a training or an inference, from formulas.

    Attributes:
        model: A name of `softfree models`, such as seqnorm_vit_tiny_patch16.
        size: Side of the square that the model sees, in pixels.
        channels: Channels of the pictures.
        classes: Number of classes.
        batch: Pictures a step.
        precision: Arithmetic of the products: 32, bf16 or 16 bits.
        pure: Weights and all else in that precision too, not only the products.
        inference: Only the forward pass; default: a training step with AdamW.
        checkpointing: Recompute activations in the backward pass.
        mlp_chunk: Tokens that an MLP takes at once; default: all in training.
        stem: 'patch' or 'conv'.
        device: 'cpu' or 'gpu'.
        memory: GiB of the device; default: what is free now.
        check: Instead, run a handful of cases and print predicted and measured peaks; takes some minutes.
        out: CSV file for the check, with a JSON file of the machine beside it.
    """

    model: str = "seqnorm_vit_tiny_patch16"
    size: int = 512
    channels: int = 3
    classes: int = 2
    batch: int = 1
    precision: Precision = "32"
    pure: bool = False
    inference: bool = False
    checkpointing: bool = False
    mlp_chunk: int | None = None
    stem: Literal["patch", "conv"] = "conv"
    device: Literal["cpu", "gpu"] = "cpu"
    memory: float | None = None
    check: bool = False
    out: Path | None = None
