"""Benchmarks of speed and memory, and their prediction."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from softfree.training.options import ImageOptions, Precision


@dataclass(kw_only=True)
class LoaderBenchOptions(ImageOptions):
    """Images a second that reading and transforming give, beside what training takes.

    Attributes:
        model: The model whose training rate is measured.
        label: Column with the class of each image.
        batch_size: Images a step.
        seconds: Time for each measurement, of which the median of three counts.
        out: CSV file to write, with a JSON file of the machine beside it.
    """

    model: str = "seqnorm_vit_nano_patch16"
    label: str = "label"
    batch_size: int = 8
    seconds: float = 10.0
    out: Path | None = None


@dataclass(kw_only=True)
class SpeedOptions:
    """What every benchmark of speed has.

    Attributes:
        precision: Types of weights and input, e.g. '[fp32, bf16]'.
        passes: 'forward' and 'training' (forward and backward; of a model with the optimizer's step).
        batch_size: Samples at once.
        seconds: Time for each case after its first run; the cases of one size run in turn.
        limit: Leave out a case whose single run would take longer, in seconds.
        threads: Threads of PyTorch; default: its own choice.
        device: 'cpu' or 'cuda'.
        out: Folder for the rows (CSV), machine and options (JSON), tables (Markdown) and plots.
    """

    precision: list[Precision] = field(default_factory=lambda: ["fp32", "bf16"])
    passes: list[Literal["forward", "training"]] = field(default_factory=lambda: ["forward", "training"])
    batch_size: int = 1
    seconds: float = 3.0
    limit: float = 60.0
    threads: int | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    out: Path | None = None


@dataclass(kw_only=True)
class AttentionBenchOptions(SpeedOptions):
    """One attention sublayer, or an encoder: its time and memory over the length of the sequence.

    Attributes:
        tokens: Sequence lengths N.
        width: Features C of a token.
        heads: Number of heads H.
        depth: Blocks of a whole encoder with this attention; 0 for the sublayer alone.
        methods: Attentions, SeqNorm with its order; the bare products are always there.
        compile: Through torch.compile.
    """

    tokens: list[int] = field(default_factory=lambda: [196, 1024, 4096, 16384, 65536, 262144])
    width: int = 384
    heads: int = 6
    depth: int = 0
    methods: list[str] = field(
        default_factory=lambda: ["softmax", "sima", "seqnorm literal", "seqnorm folded", "seqnorm gram"]
    )
    compile: bool = False


@dataclass(kw_only=True)
class ModelBenchOptions(SpeedOptions):
    """Whole models: their time and memory over the side of the image.

    Attributes:
        sides: Sides of the image in pixels.
        models: Names of softfree's models, SeqNorm's perhaps with an order.
        peer: Names of timm's models to measure beside.
        grad_checkpointing: Train softfree's models with checkpointed blocks.
        mlp_chunk: Train softfree's models with MLPs of so many tokens at once.
        compile: Through torch.compile.
    """

    sides: list[int] = field(default_factory=lambda: [224, 512, 1024, 2048, 4096])
    models: list[str] = field(
        default_factory=lambda: ["seqnorm_vit_small_patch16", "seqnorm_vit_small_patch16 literal"]
    )
    peer: list[str] = field(default_factory=lambda: ["vit_small_patch16_224"])
    grad_checkpointing: bool = False
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
class StreamBenchOptions:
    """Images of any size as streams.

    Attributes:
        sides: Sides of the image in pixels.
        slides: Whole slides to stream at their finest resolution, forward and backward, instead of images of noise.
        whole: Largest side that is measured in memory, too.
        model: A name of `softfree models` whose attention can stream.
        training: Forward and backward; default: inference.
        precision: Arithmetic of matrix products: 'fp32' or 'bf16'.
        token_store: Folder on a disk where the tokens wait; default: main memory.
        token_bf16: Keep them in bfloat16.
        token_chunk: Tokens that are computed at once.
        threads: Threads of PyTorch; default: its own choice.
        progress: Show progress bars.
        out: Folder for the rows (CSV), machine and options (JSON) and the table (Markdown).
    """

    sides: list[int] = field(default_factory=lambda: [2048, 4096, 8192])
    slides: list[Path] = field(default_factory=list)
    whole: int = 2048
    model: str = "seqnorm_vit_small_patch16"
    training: bool = False
    precision: Precision = "fp32"
    token_store: Path | None = None
    token_bf16: bool = False
    token_chunk: int = 8192
    threads: int | None = None
    progress: bool = False
    out: Path | None = None


@dataclass(kw_only=True)
class MapBenchOptions:
    """Maps of what a prediction rests on: what each costs beside a forward pass.

    Attributes:
        model: A name of `softfree models`, of a vision transformer for images; its weights are random.
        sides: Sides of the image in pixels.
        streamed_sides: Sides of images that are streamed, forward pass and maps.
        methods: Maps, as `softfree explain --method` takes them.
        precision: Arithmetic of matrix products: 'fp32' or 'bf16'.
        token_store: Folder on a disk where the tokens of streams wait; default: main memory.
        threads: Threads of PyTorch; default: its own choice.
        seconds: Processor time for each case after its first run; the cases of one side run in turn.
        limit: Leave out a case whose single run would take longer, in seconds.
        out: Folder for the rows (CSV), machine and options (JSON) and the table (Markdown).
    """

    model: str = "seqnorm_vit_small_patch16"
    sides: list[int] = field(default_factory=lambda: [2048])
    streamed_sides: list[int] = field(default_factory=list)
    methods: list[str] = field(default_factory=lambda: ["split", "gradient", "gradcam", "rollout", "attention"])
    precision: Literal["fp32", "bf16"] = "fp32"
    token_store: Path | None = None
    threads: int | None = None
    seconds: float = 3.0
    limit: float = 600.0
    out: Path | None = None


@dataclass(kw_only=True)
class EdgeBenchOptions:
    """Exported models on a small machine: latency, peak memory, file size and energy over the side of the image.

    Attributes:
        sides: Sides of the image in pixels.
        methods: Attentions, perhaps with an activation ('seqnorm relu2'). 'softmax' is onnxruntime's own fused
            attention, 'softmax standard' the operator of ONNX.
        runtimes: 'onnxruntime' or 'openvino'; PyTorch itself, in float32, is always there.
        precisions: 'fp32', 'fp16' or 'int8' in the plain layers.
        model: Size and patch, as in the names of `softfree models`; their weights are random.
        threads: Threads; default: one, and then all processors.
        seconds: Time for each case after its first run; the cases of one side run in turn.
        limit: Leave out a case whose single run would take longer, in seconds.
        images: Images that show the ranges of int8: a folder, a file or a table; default: computed test blocks.
        calibration_count: How many of them.
        out: Folder for the rows (CSV), machine and options (JSON), tables (Markdown) and the plot.
    """

    sides: list[int] = field(default_factory=lambda: [224, 512, 1024, 2048])
    methods: list[str] = field(default_factory=lambda: ["seqnorm", "sima", "soft", "softmax"])
    runtimes: list[Literal["onnxruntime", "openvino"]] = field(default_factory=lambda: ["onnxruntime"])
    precisions: list[Literal["fp32", "fp16", "int8"]] = field(default_factory=lambda: ["fp32", "fp16", "int8"])
    model: str = "small_patch16"
    threads: int | None = None
    seconds: float = 3.0
    limit: float = 60.0
    images: Path | None = None
    calibration_count: int = 8
    out: Path | None = None
