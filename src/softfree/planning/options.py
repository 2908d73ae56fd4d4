"""Options of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from softfree.core.options import PoolName, Precision


@dataclass(kw_only=True)
class PlanOptions:
    """Plan.

    Attributes:
        model: A name listed by 'softfree models'.
        size: Side of the square input of the model, in pixels.
        channels: Number of image channels.
        classes: Number of classes.
        batch_size: Images, or cases of several images, per batch.
        images: Images of a case (tables with case_id), each of that size; default: samples are single images.
        precision: Arithmetic of matrix products.
        pure: Use that precision also for weights and everything else, not only for products.
        inference: Plan a forward pass instead of a training step with AdamW.
        grad_checkpointing: Recompute activations in the backward pass.
        mlp_chunk: Number of tokens that an MLP processes at a time; default: all in training.
        stem: 'pool', 'conv' or 'patch', as in softfree train.
        pool: How tokens become logits, as in softfree train.
        device: 'cpu' or 'gpu'.
        memory: Memory of the device in GiB; default: the memory that is free now.
    """

    model: str = "seqnorm_vit_tiny_patch16"
    size: int = 512
    channels: int = 3
    classes: int = 2
    batch_size: int = 1
    images: int | None = None
    precision: Precision = "fp32"
    pure: bool = False
    inference: bool = False
    grad_checkpointing: bool = False
    mlp_chunk: int | None = None
    stem: Literal["patch", "conv", "pool"] = "pool"
    pool: PoolName = "mean_topk"
    device: Literal["cpu", "gpu"] = "cpu"
    memory: float | None = None
