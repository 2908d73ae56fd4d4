"""Which rate and decay each parameter has, and how the rate goes on."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim import SGD

from softfree.core.options import OptimizerOptions
from softfree.models import create_model
from softfree.training.optimizer import create_optimizer, create_schedule


def test_vectors_and_positions_do_not_decay_and_rates_shrink_towards_the_stem() -> None:
    model = create_model("seqnorm_vit_nano_patch16", img_size=32, num_classes=2, depth=2)
    optimizer = create_optimizer(model, OptimizerOptions(lr=0.1, weight_decay=0.3, layer_decay=0.5))
    group_of = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        group = group_of[id(parameter)]
        assert group["weight_decay"] == (0 if parameter.ndim == 1 or name == "pos_embed" else 0.3), name
        above = {"head": 0, "fc_norm": 1, "blocks.1": 1, "blocks.0": 2}  # timm counts the last norm to the last block
        layer = next((n for start, n in above.items() if name.startswith(f"{start}.")), 3)
        assert group["lr"] == pytest.approx(0.1 * 0.5**layer), name


@pytest.mark.parametrize("warmup_fraction", [0.0, 0.25])
def test_the_rate_rises_in_a_line_and_falls_as_a_cosine(warmup_fraction: float) -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = create_schedule(optimizer, 40, warmup_fraction)  # type: ignore[arg-type]
    rates = []
    for _ in range(41):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    rising = max(1, round(40 * warmup_fraction))
    assert rates[:rising] == pytest.approx([2 * (step + 1) / rising for step in range(rising)])
    assert rates[rising:] == pytest.approx(
        [1 + math.cos(math.pi * step / (40 - rising)) for step in range(41 - rising)], abs=1e-9
    )
    assert rates[-1] == pytest.approx(0)
