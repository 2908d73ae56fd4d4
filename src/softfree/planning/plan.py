"""How much memory and work a training step or an inference takes, from formulas, before anything runs.

``softfree plan --check`` holds the formulas against measured peaks; ``benchmarks/plan.csv`` has the result.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields, replace
from itertools import count
from math import isqrt
from pathlib import Path
from typing import Any, get_args

from softfree.attention.base import PART
from softfree.errors import UserError, unknown_name
from softfree.models.named import NAMED, SIZES
from softfree.models.pyramid_names import PYRAMIDS
from softfree.options import PlanOptions, Precision
from softfree.planning.layers import Shape, StemCost, attention_cost, is_gram, stem_cost

GIB = 2**30
# What a process holds that has loaded torch, timm and the models, and has run each kind of kernel once. Measured.
PROCESS = 757 * 2**20
# What a GPU holds for the libraries before the first tensor. A round number, not measured.
GPU_CONTEXT = GIB // 2
# glibc takes blocks from here on from the system and gives them back; smaller ones leave gaps.
MAPPED = 32 * 2**20
# Share of the smaller blocks that are gaps at the peak: of what is kept, and of what each block computes again
# between gradients that stay. Fitted to measured peaks.
GAPS_KEPT, GAPS_RECOMPUTED = 0.1, 0.35
# The search for the largest side ends here.
LARGEST_SIZE = 2**17


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be run; the fields are those of :class:`~softfree.options.PlanOptions`.

    Raises:
        UserError: a name or a number that is impossible.
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
    stem: str = "conv"
    gpu: bool = False
    # Of a model with other dimensions than its name says.
    width: int | None = None
    depth: int | None = None
    heads: int | None = None

    def __post_init__(self) -> None:
        if self.model in PYRAMIDS:
            raise UserError(
                f"There is no formula for the pyramid {self.model}: train an epoch and read logs/cost.json of the run."
            )
        if self.model not in NAMED:
            raise unknown_name("model", self.model, NAMED)
        for name, got, known in (
            ("precision", self.precision, get_args(Precision)),
            ("stem", self.stem, ("patch", "conv")),
        ):
            if got not in known:
                raise unknown_name(name, got, known)
        for name in ("size", "channels", "classes", "batch", "mlp_chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"Got {name} {value}: expected a whole number from 1 on.")
        attention_cost(self.attention)

    @property
    def attention(self) -> str:
        """The attention method that the model's name begins with."""
        return self.model.partition("_vit_")[0]

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return int(self.model.rpartition("patch")[2])

    @property
    def dimensions(self) -> dict[str, int]:
        """Width, depth and heads."""
        found = re.fullmatch(r".+_vit_(.+)_patch\d+", self.model)
        assert found is not None  # NAMED holds only such names
        given = {"embed_dim": self.width, "depth": self.depth, "num_heads": self.heads}
        return SIZES[found[1]] | {name: value for name, value in given.items() if value is not None}

    @property
    def padded(self) -> int:
        """Side of the picture in whole patches."""
        return -(-self.size // self.patch) * self.patch

    @property
    def shape(self) -> Shape:
        """The shape of the tokens and the bytes of a number."""
        narrow = 4 if self.precision == "32" else 2
        return Shape(
            batch=self.batch,
            tokens=(self.padded // self.patch) ** 2,
            width=self.dimensions["embed_dim"],
            heads=self.dimensions["num_heads"],
            narrow=narrow,
            stream=narrow if self.pure else 4,
            autocast=narrow < 4 and not self.pure,
        )

    @property
    def tokenizer(self) -> StemCost:
        """The cost of the stem."""
        return stem_cost(self.stem, self.patch, self.channels, self.shape.width, self.padded)


@dataclass(frozen=True)
class Memory:
    """Bytes, split by purpose; all are held at the peak.

    Attributes:
        weights: The model's parameters.
        gradients: One for each weight.
        optimizer: AdamW's two averages for each weight.
        kept: Pictures and activations that wait for the backward pass; in inference the pictures.
        temporaries: What the widest moments need beside them.
        gaps: Freed memory in the CPU's heap that no tensor fits into.
        process: Python with its libraries; on a GPU the context.
    """

    weights: int
    gradients: int
    optimizer: int
    kept: int
    temporaries: int
    gaps: int
    process: int

    @property
    def total(self) -> int:
        """The sum."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Plan:
    """The answer.

    Attributes:
        work: What was asked.
        parameters: Numbers to learn.
        multiply_adds: Of matrix products and convolutions, forward, for one picture.
        memory: Bytes at the peak.
        available: Bytes that are free, or None where that is not known.
        largest: Largest side of a square picture that fits; 0 if none does; None where the memory is not known.
    """

    work: Work
    parameters: int
    multiply_adds: int
    memory: Memory
    available: int | None
    largest: int | None

    @property
    def fits(self) -> bool | None:
        """Whether the peak is within what is available; None where that is not known."""
        return None if self.available is None else self.memory.total <= self.available

    def to_dict(self) -> dict[str, Any]:
        """For programs; memory in bytes."""
        return {
            **asdict(self.work),
            "parameters": self.parameters,
            "multiply_adds": self.multiply_adds,
            "memory": {**asdict(self.memory), "total": self.memory.total},
            "available": self.available,
            "fits": self.fits,
            "largest_size": self.largest,
        }


def make_plan(options: PlanOptions) -> Plan:
    """Answer the options: what it takes, whether it fits, and what would fit at most."""
    if options.out is not None:
        raise UserError(f"Got out {options.out} without check: only --check writes a file; use --json to keep a plan.")
    known = {field.name for field in fields(options)}
    chosen = {field.name: getattr(options, field.name) for field in fields(Work) if field.name in known}
    work = Work(**chosen, gpu=options.device == "gpu")
    if options.memory is not None and not options.memory > 0:
        raise UserError(f"Got memory {options.memory}: expected the GiB of the device, such as 16.")
    available = free_memory(work.gpu) if options.memory is None else int(options.memory * GIB)
    largest = None if available is None else largest_size(work, available)
    return Plan(work, count_parameters(work), multiply_adds(work), memory(work), available, largest)


def count_parameters(work: Work) -> int:
    """Count the numbers to learn, with positions for pictures of this size."""
    s = work.shape
    attention = attention_cost(work.attention).parameters(s)
    block = attention + 2 * 2 * s.width + 8 * s.square + 5 * s.width
    ends = s.tokens * s.width + 2 * s.width + s.width * work.classes + work.classes
    return work.tokenizer.parameters + work.dimensions["depth"] * block + ends


def multiply_adds(work: Work) -> int:
    """Count the multiply-adds of products and convolutions in the forward pass of one picture."""
    s = work.shape
    block = attention_cost(work.attention).products(s) + 8 * s.tokens * s.square
    return work.tokenizer.products + work.dimensions["depth"] * block + s.width * work.classes


def memory(work: Work) -> Memory:
    """Split the peak of a training step (not the first, so that AdamW's state is there) or of an inference."""
    weights = count_parameters(work) * work.shape.stream
    process = GPU_CONTEXT if work.gpu else PROCESS
    pictures = work.batch * work.channels * work.size**2 * work.shape.stream
    if work.inference:
        return Memory(weights, 0, 0, pictures, _inference(work), 0, process)
    kept = kept_bytes(work)
    if work.shape.autocast:
        kept += pictures  # beside their cast
    gaps = 0 if work.gpu else _gaps(work)
    return Memory(weights, weights, 2 * weights, kept, _backward(work), gaps, process)


def kept_bytes(work: Work) -> int:
    """Bytes of pictures and activations that autograd keeps from the forward to the backward pass."""
    s, stem = work.shape, work.tokenizer
    casts = 2 * stem.parameters if s.autocast else 0
    pixels = work.batch * work.channels * work.padded**2
    ends = (pixels + work.batch * stem.kept) * s.narrow + casts
    block = s.sheet * s.stream if work.checkpointing else _inside(work)
    return ends + work.dimensions["depth"] * block


def largest_size(work: Work, available: int) -> int:
    """Find the largest side, in whole patches, whose peak is within ``available`` bytes; 0 if none is.

    The peak grows with the side but for two places, where less is kept from one side to the next: see :func:`_turns`.
    Each stretch between them is searched by itself, the longer sides first.
    """
    patch = work.patch

    def fits(patches: int) -> bool:
        return memory(replace(work, size=patches * patch)).total <= available

    starts = sorted({1, *_turns(work)})
    ends = [start - 1 for start in starts[1:]] + [LARGEST_SIZE // patch]
    for low, high in reversed(list(zip(starts, ends, strict=True))):
        if not fits(low):
            continue
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        return low * patch
    return 0


def _turns(work: Work) -> list[int]:
    """Sides in patches from which less is kept: SeqNorm takes the Gram order, the MLP is taken by chunks."""
    turns = []
    if work.attention == "seqnorm":
        turns.append(next(n for n in count(1) if is_gram(replace(work, size=n * work.patch).shape)))
    if work.mlp_chunk is not None:
        turns.append(isqrt(work.mlp_chunk // work.batch) + 1)
    return [turn for turn in turns if turn <= LARGEST_SIZE // work.patch]


def free_memory(gpu: bool) -> int | None:
    """Bytes that are free on the GPU, or in the machine; None where the system does not tell.

    Raises:
        UserError: a GPU was asked for and there is none.
    """
    if gpu:
        import torch

        if not torch.cuda.is_available():
            raise UserError("Got --device gpu, but none is here: add --memory with the GiB of the one that is meant.")
        return int(torch.cuda.mem_get_info()[0])
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _chunked(work: Work) -> bool:
    return work.mlp_chunk is not None and work.batch * work.shape.tokens > work.mlp_chunk


def _attention_inside(work: Work) -> int:
    """Bytes that the first half of a block keeps: its input, then what the attention keeps."""
    s, cost = work.shape, attention_cost(work.attention)
    return s.sheet * (s.stream + cost.sheets(s) * s.narrow) + cost.details(s)


def _inside(work: Work) -> int:
    """Bytes that a block keeps, its input among them."""
    s = work.shape
    # The input of the second half, and of each half a mean and a deviation for LayerNorm.
    kept = _attention_inside(work) + s.sheet * s.stream + 4 * s.batch * s.tokens * s.stream
    if _chunked(work):
        return kept
    casts = 2 * 8 * s.square if s.autocast else 0
    return kept + 9 * s.sheet * s.narrow + casts  # LayerNorm's result, before and after GELU


def _chunk(work: Work) -> int:
    """Numbers of a chunk of the MLP's tokens."""
    return (work.mlp_chunk or 0) * work.shape.width


def _backward(work: Work) -> int:
    """Bytes beside what is kept: of the last block's backward pass, and of the stem's.

    Both count, since the heap that the blocks have used is not given back when the stem takes its own.
    """
    s = work.shape
    # The gradient of the stream, and that of GELU's result while the result is still there.
    block = s.sheet * s.stream + 4 * s.sheet * s.narrow
    if _chunked(work):  # gradients of stream, parts and their union; a chunk with all inside it
        block = 3 * s.sheet * s.stream + 13 * _chunk(work) * s.narrow
    if work.checkpointing:
        block += _inside(work) - s.sheet * s.stream
    return block + work.batch * work.tokenizer.backward * s.narrow


def _gaps(work: Work) -> int:
    s, depth = work.shape, work.dimensions["depth"]

    def small(numbers: int, width: int) -> int:
        return min(numbers * width, MAPPED)  # as the picture grows, gaps that were there stay

    # Two tensors of the MLP are four times as wide as the stream.
    attention = small(s.sheet, s.narrow) * attention_cost(work.attention).sheets(s)
    wide = small(s.sheet, s.narrow) + 2 * small(4 * s.sheet, s.narrow)
    chunk = small(_chunk(work), s.narrow) + 2 * small(4 * _chunk(work), s.narrow) if _chunked(work) else 0
    stream = 2 * small(s.sheet, s.stream)
    if work.checkpointing:
        again = attention + stream // 2 + (chunk if _chunked(work) else wide)
        return int(GAPS_RECOMPUTED * depth * again)
    if _chunked(work):
        return int(depth * (GAPS_RECOMPUTED * chunk + GAPS_KEPT * (attention + stream)))
    return int(GAPS_KEPT * depth * (attention + stream + wide))


def _inference(work: Work) -> int:
    """Bytes of activations at once: of the stem, and of the widest moment of a block."""
    s, stem = work.shape, work.tokenizer
    attention = 2 * s.sheet * s.stream + attention_cost(work.attention).inference(s) * s.sheet * s.narrow
    rows = s.batch * s.tokens
    if not work.gpu:
        rows = min(rows, max(256, PART // (4 * s.width)))
    if work.mlp_chunk is not None:
        rows = min(rows, work.mlp_chunk)
    mlp = 4 * s.sheet * s.stream + 10 * rows * s.width * s.narrow
    buffers = 2 * s.sheet * s.narrow if work.gpu else 2 * min(PART, s.sheet) * s.narrow
    return work.batch * (stem.kept + stem.forward) * s.narrow + max(attention + buffers, mlp)
