"""AdamW with the usual exceptions from weight decay, and the learning rate schedule."""

from __future__ import annotations

import math

from timm.optim import param_groups_layer_decay
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from softfree.core.options import OptimizerOptions


def create_optimizer(model: nn.Module, options: OptimizerOptions) -> AdamW:
    """Create AdamW without weight decay on norms, biases and positions; ``layer_decay`` lowers the rate per layer."""
    assert not isinstance(options.lr, str), "the rate is found before training"
    groups = param_groups_layer_decay(
        model,
        weight_decay=options.weight_decay,
        no_weight_decay_list=tuple(model.no_weight_decay()),  # type: ignore[operator]
        layer_decay=options.layer_decay,
    )
    for group in groups:
        group["lr"] = options.lr * group.pop("lr_scale")
    return AdamW(groups, lr=options.lr)


def create_schedule(optimizer: AdamW, steps: int, warmup_fraction: float) -> LambdaLR:
    """Create linear warmup over the first ``warmup_fraction`` of ``steps``, then cosine decay to 0."""
    warmup = max(1, round(steps * warmup_fraction))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    return LambdaLR(optimizer, factor)
