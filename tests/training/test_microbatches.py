"""Steps of images, cut into batches and shared by devices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from softfree.data.dataset import EpochSampler
from softfree.models import create_model
from softfree.models.layers import StochasticDepth, clear_drop_paths, draw_drop_paths, sample_drop_paths
from softfree.training.microbatches import Step


@pytest.mark.parametrize(
    ("images", "batch_size", "grad_accum", "world", "of_step"),
    [
        (50, 16, 1, 1, 16),
        (50, 1, 16, 1, 16),
        (50, 8, 2, 2, 16),
        (11, 16, 1, 1, 11),
        (11, 3, 6, 1, 11),
        (11, 4, 4, 2, 10),
    ],
)
def test_every_position_of_a_step_is_in_one_batch(
    images: int, batch_size: int, grad_accum: int, world: int, of_step: int
) -> None:
    epoch: list[Tensor] = []
    shares: list[float] = []
    for rank in range(world):
        step = Step.cut(images, batch_size, grad_accum, rank, world)
        assert step.images == of_step
        length = step.epoch(images)
        assert images - of_step < length <= images
        drawn = list(EpochSampler(range(images), None, rank, world, length=length))
        for number, first in enumerate(range(0, len(drawn), step.batch_size)):
            part = [image for _, image in drawn[first : first + step.batch_size]]
            rows = step.rows(number, len(part))
            # The images of one device, in their order, are those at its positions.
            assert part == (step.number(number) * of_step + rows).tolist()
            assert step.begins(number) == (number % step.batches == 0)
            epoch.append(step.number(number) * of_step + rows)
            shares.append(step.share(len(part)) / step.batches / world * of_step / len(part))
    assert torch.cat(epoch).sort().values.tolist() == list(range(length))
    assert shares == pytest.approx([1] * len(shares)), "each image counts alike"


def deep() -> nn.Module:
    torch.manual_seed(0)
    sides = {"img_size": 32, "depth": 3, "embed_dim": 32, "num_heads": 2}
    return create_model("seqnorm_vit_nano_patch16", **sides, drop_path_rate=0.5)


def test_depths_are_those_of_the_step_wherever_a_sample_is() -> None:
    model = deep()
    model.reset_classifier(5)
    torch.nn.init.normal_(model.head.weight)
    x = torch.randn(6, 3, 32, 32)
    rows = torch.arange(6)

    def answer(part: Tensor) -> Tensor:
        torch.manual_seed(3)
        draw_drop_paths(model, 6, part, torch.device("cpu"))
        return model.train()(x[part])

    whole = answer(rows)
    torch.manual_seed(3)
    clear_drop_paths(model)
    torch.testing.assert_close(model(x), whole, rtol=0, atol=0)  # timm's own draws are the same
    assert not torch.equal(model(x), whole)
    for cut in (1, 2, 3, 4):
        torch.testing.assert_close(torch.cat([answer(part) for part in rows.split(cut)]), whole)
    answer(rows)
    with sample_drop_paths(model, 4):
        torch.testing.assert_close(model(x[4:5]), whole[4:5])
    drawn = [part.factors for part in model.modules() if isinstance(part, StochasticDepth) and part.drop_prob]
    assert [len(factors) for factors in drawn if factors is not None] == [6] * 4


def test_checkpointing_comes_again_with_the_same_depths() -> None:
    model = deep()
    x = torch.randn(4, 3, 32, 32)
    results = []
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        model.train().zero_grad()
        torch.manual_seed(5)
        draw_drop_paths(model, 4, torch.arange(4), torch.device("cpu"))
        with sample_drop_paths(model, 2):
            loss = model(x[2:3]).square().sum()
        loss.backward()
        results.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    torch.testing.assert_close(*results)
