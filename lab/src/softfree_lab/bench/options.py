"""Options of the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from softfree.core.options import ImageOptions, Precision


@dataclass(kw_only=True)
class PlanBenchOptions:
    """Plan benchmark.

    Attributes:
        out: CSV file to write, with a JSON file about the machine next to it.
    """

    out: Path | None = None


@dataclass(kw_only=True)
class LoaderBenchOptions(ImageOptions):
    """Loader benchmark.

    Attributes:
        model: The model whose training throughput is measured.
        label: Column with the class of each image.
        image_root: Folder that relative paths start from and that must contain all files; default: the table's folder.
        batch_size: Images per batch.
        seconds: Time for each measurement; the median of three is reported.
        out: CSV file to write, with a JSON file about the machine next to it.
    """

    model: str = "seqnorm_vit_nano_patch16"
    label: str = "label"
    image_root: Path | None = None
    batch_size: int = 8
    seconds: float = 10.0
    out: Path | None = None


@dataclass(kw_only=True)
class SpeedOptions:
    """Measurement.

    Attributes:
        precision: Types of weights and input, such as '[fp32, bf16]'.
        passes: 'forward', and 'training' (forward and backward; for a model also the optimizer's step).
        batch_size: Samples per batch.
        seconds: Time for each case after its first run; the cases of one size take turns.
        limit: Skip a case whose single run would take longer, in seconds.
        threads: Threads of PyTorch; default: PyTorch's own.
        device: 'cpu' or 'cuda'.
        out: Folder for rows (CSV), machine and options (JSON), tables (Markdown) and plots.
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
    """Attention benchmark.

    Attributes:
        tokens: Sequence lengths N.
        width: Features C of a token.
        heads: Number of heads H.
        depth: Blocks of a whole encoder with this attention; 0 for the attention sublayer alone.
        methods: Attentions, SeqNorm with its order, and with 'weighted' after it, with importance of the tokens; the
            bare matrix products are always included.
        compile: Use torch.compile.
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
    """Model benchmark.

    Attributes:
        sides: Sides of the image in pixels.
        models: Names of softfree's models; SeqNorm's may be followed by an order.
        peer: Names of timm models to compare with.
        grad_checkpointing: Train softfree's models with gradient checkpointing.
        mlp_chunk: Number of tokens that the MLPs of softfree's models process at a time in training.
        compile: Use torch.compile.
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
    """SeqNorm's orders of evaluation.

    Attributes:
        widths: Features C.
        multiples: Sequence lengths as multiples of C.
    """

    widths: list[int] = field(default_factory=lambda: [192, 384, 768])
    multiples: list[float] = field(default_factory=lambda: [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


@dataclass(kw_only=True)
class StreamBenchOptions:
    """Streaming benchmark.

    Attributes:
        sides: Sides of the image in pixels.
        slides: Whole slides to stream at full resolution, forward and backward, instead of images of noise.
        whole: Largest side that is also measured in memory.
        model: A name listed by 'softfree models' whose attention can stream.
        training: Measure forward and backward instead of inference.
        precision: Arithmetic of matrix products; fp16 is refused.
        token_store: Folder on a disk for the tokens; default: main memory.
        token_bf16: Store them in bfloat16.
        token_chunk: Number of tokens processed at a time.
        threads: Threads of PyTorch; default: PyTorch's own.
        progress: Show progress bars.
        out: Folder for rows (CSV), machine and options (JSON) and the table (Markdown).
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
    """Saliency map benchmark.

    Attributes:
        model: A name listed by 'softfree models', of a vision transformer for images, with random weights.
        sides: Sides of the image in pixels.
        streamed_sides: Sides of images that are streamed, forward pass and maps.
        methods: Methods, as for 'softfree explain --method'.
        precision: Arithmetic of matrix products.
        token_store: Folder on a disk for the tokens of streamed images; default: main memory.
        threads: Threads of PyTorch; default: PyTorch's own.
        seconds: Processor time for each case after its first run; the cases of one side take turns.
        limit: Skip a case whose single run would take longer, in seconds.
        out: Folder for rows (CSV), machine and options (JSON) and the table (Markdown).
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
class CasesBenchOptions:
    """Benchmark of cases of several images.

    Attributes:
        model: A model of images, with random weights.
        images: Number of images of a case.
        side: Side of the images in pixels.
        precision: Arithmetic of matrix products.
        mlp_chunk: Number of tokens that an MLP processes at a time.
        threads: Threads of PyTorch; default: PyTorch's own.
        rounds: Number of steps after the first, in turn with the images one by one.
        out: Folder for rows (CSV), machine and options (JSON) and the table (Markdown).
    """

    model: str = "seqnorm_vit_tiny_patch16"
    images: int = 20
    side: int = 1024
    precision: Literal["fp32", "bf16"] = "fp32"
    mlp_chunk: int | None = 4096
    threads: int | None = None
    rounds: int = 3
    out: Path | None = None


@dataclass(kw_only=True)
class EdgeBenchOptions:
    """Edge benchmark.

    Attributes:
        sides: Sides of the image in pixels.
        methods: Attentions, optionally with an activation ('seqnorm relu2'). 'softmax' is onnxruntime's fused
            attention, 'softmax standard' the ONNX operators.
        runtimes: 'onnxruntime', 'openvino', or 'inductor' (PyTorch compiled ahead of time, fp32 only); PyTorch in
            float32 is always included.
        precisions: 'fp32', 'fp16' or 'int8' in the linear layers.
        model: Size and patch, as in the names of 'softfree models'; weights are random.
        threads: Number of threads; default: one, then all processors.
        seconds: Time for each case after its first run; the cases of one side take turns.
        limit: Skip a case whose single run would take longer, in seconds.
        images: Calibration images for int8: a folder, a file or a table; default: computed test blocks.
        calibration_count: Number of calibration images.
        out: Folder for rows (CSV), machine and options (JSON), tables (Markdown) and the plot.
    """

    sides: list[int] = field(default_factory=lambda: [224, 512, 1024, 2048])
    methods: list[str] = field(default_factory=lambda: ["seqnorm", "sima", "soft", "softmax"])
    runtimes: list[Literal["onnxruntime", "openvino", "inductor"]] = field(default_factory=lambda: ["onnxruntime"])
    precisions: list[Literal["fp32", "fp16", "int8"]] = field(default_factory=lambda: ["fp32", "fp16", "int8"])
    model: str = "small_patch16"
    threads: int | None = None
    seconds: float = 3.0
    limit: float = 60.0
    images: Path | None = None
    calibration_count: int = 8
    out: Path | None = None


ArchivePart = Literal["overhead", "images", "kills", "ray", "store", "index", "scaling"]


@dataclass(kw_only=True)
class ClusterOptions:
    """The machines of part 'scaling', which exist on paper only.

    Attributes:
        inputs: Number of images.
        cores: Processor cores of a machine.
        gpus: GPUs of a machine.
        gpu_rate: Images that the model predicts on a GPU in a second; default: by gpu_speedup.
        gpu_speedup: A GPU against one core of this machine, if gpu_rate is not given.
        network_gbit: Network of a machine, in Gbit/s.
        store_gbit: What the object store gives to all machines together, in Gbit/s.
        store_latency: Time until the object store begins to answer, in milliseconds.
        start: Start of the cluster and its processes, in seconds.
        alone: Listing an input and joining its row, which one process does, in milliseconds; default: as part
            'overhead' measured it, or 0.1.
    """

    inputs: int = 1_000_000
    cores: int = 16
    gpus: int = 1
    gpu_rate: float | None = None
    gpu_speedup: float = 100.0
    network_gbit: float = 10.0
    store_gbit: float = 40.0
    store_latency: float = 20.0
    start: float = 60.0
    alone: float | None = None


@dataclass(kw_only=True)
class ArchiveBenchOptions(ClusterOptions):
    """Archive benchmark.

    Attributes:
        parts: What to measure: 'overhead' (rows of a stub that fills an array), 'images' (throughput and memory),
            'kills', 'ray', 'store' (S3), 'index' (nearest features), 'scaling' (many machines, on paper).
        images: Number of images of 512 x 512 pixels; store takes a tenth of them, kills and ray a twentieth.
        rows: Number of rows of the stub.
        kills: Number of kills.
        vectors: Number of features in the index.
        width: Numbers of each of them.
        rate: Images that this machine predicts in a second, to say how long the parts take.
        scratch: Folder for temporary files; default: the system's.
        out: CSV file to write, with a JSON file about the machine next to it.
    """

    parts: list[ArchivePart] = field(
        default_factory=lambda: ["overhead", "images", "kills", "ray", "store", "index", "scaling"]
    )
    images: int = 20_000
    rows: int = 1_000_000
    kills: int = 20
    vectors: int = 1_000_000
    width: int = 192
    rate: float = 60.0
    scratch: Path | None = None
    out: Path | None = None


ServeTest = Literal["cold", "throughput", "overload", "large", "kills", "soak", "tiles"]


@dataclass(kw_only=True)
class ServeBenchOptions:
    """Server benchmark.

    Attributes:
        tests: What is measured: 'cold' start, 'throughput' next to softfree predict, 'overload', small images beside a
            'large' one, 'kills' of server and workers, a 'soak' with good and bad files, and 'tiles' of a slide.
        model: Size and patch, as in the names of 'softfree models'; weights are random.
        size: Side of the images in pixels.
        large_size: Side of the large image in pixels.
        slide_size: Side of the slide in pixels.
        precision: 'fp32', or 'int8' in the linear layers.
        files: Number of images.
        clients: Number of clients at once.
        overload_clients: Number of clients in the overload.
        seconds: Time for each measurement of throughput, overload and small beside large.
        kills: Number of processes that are killed.
        soak: Time with good and bad files, in seconds.
        workers: Workers of the server; default: its own.
        out: Folder for rows (CSV), machine and options (JSON) and the table (Markdown).
    """

    tests: list[ServeTest] = field(default_factory=lambda: ["cold", "throughput", "overload", "large", "kills", "soak"])
    model: str = "small_patch16"
    size: int = 512
    large_size: int = 2048
    slide_size: int = 100_000
    precision: Literal["fp32", "int8"] = "fp32"
    files: int = 32
    clients: int = 8
    overload_clients: int = 64
    seconds: float = 60.0
    kills: int = 20
    soak: float = 600.0
    workers: int | None = None
    out: Path | None = None


GpuSection = Literal["correct", "sublayer", "models", "profiles", "training", "figure3"]


@dataclass(kw_only=True)
class GpuBenchOptions:
    """GPU benchmark.

    Attributes:
        out: Folder of at most 8 files; a second start with the same folder goes on where the first has ended.
        device: 'cuda', or 'cpu' for a rehearsal of the same code on small sizes.
        budget: Time for all sections in seconds.
        sections: What is measured, in this order; the time is shared among the sections.
    """

    out: Path = Path("softfree-gpu")
    device: Literal["cuda", "cpu"] = "cuda"
    budget: float = 540.0
    sections: list[GpuSection] = field(
        default_factory=lambda: ["correct", "sublayer", "models", "profiles", "training", "figure3"]
    )


@dataclass(kw_only=True)
class ThroughputBenchOptions:
    """Throughput beside published accuracy.

    Attributes:
        models: Names of models; default: all with a published Top-1, and SeqNorm's and SimA's vision transformers.
        sides: Sides of the image in pixels; the first is that of the published Top-1.
        batches: Images of a batch at the first side; at others as many as have about the same number of pixels.
        precisions: Types of weights and input: 'fp32', 'bf16' or 'fp16'.
        rounds: Visits to each case; between two visits all others have their turn.
        seconds: Time for each visit after a first run; a run that takes longer is one visit.
        limit: Skip a case whose single run would take longer, in seconds.
        device: 'cpu' or 'cuda'.
        threads: Threads of PyTorch; default: PyTorch's own.
        out: Folder for results as they come (JSON lines), rows (CSV), machine and options (JSON), table (Markdown) and
            figure; a second start with the same folder goes on where the first has ended.
    """

    models: list[str] = field(default_factory=list)
    sides: list[int] = field(default_factory=lambda: [224, 512, 1024])
    batches: list[int] = field(default_factory=lambda: [1, 16])
    precisions: list[Precision] = field(default_factory=lambda: ["fp32", "bf16"])
    rounds: int = 3
    seconds: float = 0.5
    limit: float = 30.0
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int | None = None
    out: Path = Path("softfree-throughput")
