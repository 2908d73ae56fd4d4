"""AdamW with the usual exceptions from weight decay, and the learning rate schedule."""

from __future__ import annotations

import math

from timm.optim import param_groups_layer_decay
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from softfree.core.options import OptimizerOptions


def create_optimizer(model: nn.Module, options: OptimizerOptions) -> AdamW:
    """AdamW without weight decay on norms, biases and positions; rates shrink by ``layer_decay`` per layer down."""
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
    """Linear rise over the first ``warmup_fraction`` part of ``steps``, then half a cosine down to 0."""
    rising = max(1, round(steps * warmup_fraction))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, steps - rising))))

    return LambdaLR(optimizer, factor)
