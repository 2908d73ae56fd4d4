"""The peak memory of a training step or of inference, from formulas validated against measured peaks."""

from __future__ import annotations

from dataclasses import dataclass, fields

from softfree.attention.base import PART
from softfree.planning.work import Work, count_parameters

GIB = 2**30
# Memory of a process that has loaded torch, timm and the models, and has run each kernel once. Measured.
PROCESS = 757 * 2**20
# What `softfree train` loads besides: readers, MONAI, Lightning, scikit-learn, figures. Measured.
TRAINING = 330 * 2**20
# GPU memory of the libraries before the first tensor. A round number, not measured.
GPU_CONTEXT = GIB // 2
# glibc maps blocks of this size or more and returns them to the system; smaller ones leave gaps.
MAPPED = 32 * 2**20
# Gaps at the peak as a fraction of smaller blocks: of kept tensors, of those of a chunk of an MLP, and of tensors that
# each block recomputes between gradients that stay. Fitted to measured peaks.
GAPS_KEPT, GAPS_CHUNKED, GAPS_RECOMPUTED = 0.1, 0.35, 0.7


@dataclass(frozen=True)
class Memory:
    """Bytes, split by purpose; all are held at the peak.

    Attributes:
        weights: The model's parameters.
        gradients: One per weight.
        optimizer: AdamW's two averages per weight.
        kept: Images and activations kept for the backward pass; in inference the images.
        temporaries: Peak of the other tensors.
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
        """Sum of all parts."""
        return sum(getattr(self, field.name) for field in fields(self))


def memory(work: Work) -> Memory:
    """Split the peak of a training step (not the first, so that AdamW's state exists) or of inference."""
    weights = count_parameters(work) * work.shape.stream
    process = GPU_CONTEXT if work.gpu else PROCESS
    images = work.number * work.channels * work.size**2 * work.shape.stream
    if work.inference:
        return Memory(weights, 0, 0, images, _inference(work), 0, process)
    kept = kept_bytes(work)
    if work.shape.autocast:
        kept += images  # in addition to their cast
    gaps = 0 if work.gpu else _gaps(work)
    return Memory(weights, weights, 2 * weights, kept, _backward(work), gaps, process)


def training_peak(work: Work) -> int:
    """Return the peak of ``softfree train`` in bytes, without cached samples.

    Besides a step this has the libraries, the average of the weights, and a copy of weights, average and optimizer
    while a checkpoint is written.
    """
    step = memory(work)
    average = step.weights
    checkpoint = step.weights + average + step.optimizer
    return step.total + (0 if work.gpu else TRAINING + average + checkpoint)


def kept_bytes(work: Work) -> int:
    """Return the bytes of images and activations kept for the backward pass."""
    s, stem = work.shape, work.tokenizer
    casts = 2 * stem.parameters if s.autocast else 0
    pixels = work.number * work.channels * work.padded**2
    stem_bytes = pixels * s.narrow + casts
    if not _recomputes_stem(work):
        stem_bytes += work.number * stem.kept * s.narrow
    block = s.bnc * s.stream if work.grad_checkpointing else _inside(work)
    return stem_bytes + work.dimensions["depth"] * block + work.head.kept


def _recomputes_stem(work: Work) -> bool:
    """Whether only the pixels of each image are kept: those of a case are then tokenized one by one."""
    return work.grad_checkpointing and work.images is not None


def _chunked(work: Work) -> bool:
    return work.mlp_chunk is not None and work.batch_size * work.shape.tokens > work.mlp_chunk


def _attention_inside(work: Work) -> int:
    """Return the bytes kept by the first half of a block: its input and those of the attention."""
    s, cost = work.shape, work.attention
    return s.bnc * (s.stream + cost.kept_tensors * s.narrow) + cost.kept_bytes


def _inside(work: Work) -> int:
    """Return the bytes kept by a block, including its input."""
    s = work.shape
    # The input of the second half, and for each half LayerNorm's mean and standard deviation.
    kept = _attention_inside(work) + s.bnc * s.stream + 4 * s.batch * s.tokens * s.stream
    if _chunked(work):
        return kept
    casts = 2 * 8 * s.cc if s.autocast else 0
    return kept + 9 * s.bnc * s.narrow + casts  # LayerNorm's result, before and after GELU


def _chunk(work: Work) -> int:
    """Return the numbers in a chunk of the MLP's tokens."""
    return (work.mlp_chunk or 0) * work.shape.width


def _backward(work: Work) -> int:
    """Return the bytes besides kept tensors: of the backward passes of the last block and of the stem.

    Both count, since the heap used by the blocks is not returned before the stem allocates its own.
    """
    s = work.shape
    # The gradient of the stream, and that of GELU's result while the result is still alive.
    block = s.bnc * s.stream + 4 * s.bnc * s.narrow
    if _chunked(work):  # gradients of the stream, of the chunks and of their union; a chunk with its activations
        block = 3 * s.bnc * s.stream + 13 * _chunk(work) * s.narrow
    if work.grad_checkpointing:
        block += _inside(work) - s.bnc * s.stream
    stem = work.tokenizer
    of_stem = stem.kept + stem.backward if _recomputes_stem(work) else work.number * stem.backward
    return block + of_stem * s.narrow


def _gaps(work: Work) -> int:
    s, depth = work.shape, work.dimensions["depth"]

    def small(numbers: int, width: int) -> int:
        return numbers * width if numbers * width < MAPPED else 0

    # Two tensors of the MLP are four times as wide as the stream.
    attention = small(s.bnc, s.narrow) * work.attention.kept_tensors
    wide = small(s.bnc, s.narrow) + 2 * small(4 * s.bnc, s.narrow)
    chunk = small(_chunk(work), s.narrow) + 2 * small(4 * _chunk(work), s.narrow) if _chunked(work) else 0
    stream = 2 * small(s.bnc, s.stream)
    if work.grad_checkpointing:
        recomputed = attention + stream // 2 + (chunk if _chunked(work) else wide)
        return int(GAPS_RECOMPUTED * depth * recomputed)
    if _chunked(work):
        return int(depth * (GAPS_CHUNKED * chunk + GAPS_KEPT * (attention + stream)))
    return int(GAPS_KEPT * depth * (attention + stream + wide))


def _inference(work: Work) -> int:
    """Return the bytes of activations alive at the same time: of the stem, and at the peak of a block."""
    s, stem = work.shape, work.tokenizer
    attention = 2 * s.bnc * s.stream + work.attention.inference_tensors * s.bnc * s.narrow
    rows = s.batch * s.tokens
    if not work.gpu:
        rows = min(rows, max(256, PART // (4 * s.width)))
    if work.mlp_chunk is not None:
        rows = min(rows, work.mlp_chunk)
    mlp = 4 * s.bnc * s.stream + 10 * rows * s.width * s.narrow
    buffers = 2 * s.bnc * s.narrow if work.gpu else 2 * min(PART, s.bnc) * s.narrow
    return work.number * (stem.kept + stem.forward) * s.narrow + max(attention + buffers, mlp)
