"""What is planned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from softfree.training.options import PoolName, Precision


@dataclass(kw_only=True)
class PlanOptions:
    """Memory and work of a training or an inference, from formulas.

    Attributes:
        model: A name of `softfree models`, such as seqnorm_vit_tiny_patch16.
        size: Side of the square that the model sees, in pixels.
        channels: Channels of the images.
        classes: Number of classes.
        batch_size: Images a step.
        precision: Arithmetic of matrix products: 'fp32', 'bf16' or 'fp16'.
        pure: Weights and all else in that precision too, not only the products.
        inference: Only the forward pass; default: a training step with AdamW.
        grad_checkpointing: Recompute activations in the backward pass.
        mlp_chunk: Tokens that an MLP takes at once; default: all in training.
        stem: As in training: 'pool', 'conv' or 'patch'.
        pool: As in training: 'mean_topk', 'topk', 'avg', 'token', 'lse', 'gated' or 'mean_std'.
        device: 'cpu' or 'gpu'.
        memory: GiB of the device; default: what is free now.
    """

    model: str = "seqnorm_vit_tiny_patch16"
    size: int = 512
    channels: int = 3
    classes: int = 2
    batch_size: int = 1
    precision: Precision = "fp32"
    pure: bool = False
    inference: bool = False
    grad_checkpointing: bool = False
    mlp_chunk: int | None = None
    stem: Literal["patch", "conv", "pool"] = "pool"
    pool: PoolName = "mean_topk"
    device: Literal["cpu", "gpu"] = "cpu"
    memory: float | None = None
