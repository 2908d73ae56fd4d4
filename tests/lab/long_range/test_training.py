"""One training: it learns, ends when told, and continues as if it had never stopped."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from softfree_lab.long_range.tasks import Recipe, TaskData
from softfree_lab.long_range.training import CHECKPOINT, PROGRESS, Settings, Training, schedule
from softfree_runtime.core.errors import UserError


def test_it_learns(tmp_path: Path, data: TaskData, longer: Settings) -> None:
    result = Training(longer, data, tmp_path).run()
    assert result is not None
    assert result.correct / result.tested > 0.9
    assert result.progress.step == 48
    assert [step for step, _, _ in result.progress.curve] == [16, 32, 48]
    assert result.progress.best == max(accuracy for _, _, accuracy in result.progress.curve)


@pytest.mark.parametrize("attention", ["seqnorm", "performer"])
def test_an_interrupted_training_ends_with_the_same_weights(
    tmp_path: Path, data: TaskData, settings: Settings, attention: str
) -> None:
    settings = replace(settings, attention=attention)
    whole = Training(settings, data, tmp_path / "whole")
    expected = whole.run()
    first = Training(settings, data, tmp_path / "parts")
    for _ in range(3):
        first.step()
    assert first.run(deadline=0) is None  # writes a checkpoint
    torch.rand(5)
    second = Training(settings, data, tmp_path / "parts")
    assert second.progress.step == 3
    result = second.run()
    assert expected is not None
    assert result is not None
    assert result.progress.curve == expected.progress.curve
    assert result.correct == expected.correct
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], weight), name


def test_the_log_only_grows(tmp_path: Path, data: TaskData, settings: Settings) -> None:
    assert Training(settings, data, tmp_path).run(deadline=0) is None
    before = (tmp_path / PROGRESS).read_text()
    Training(settings, data, tmp_path).run()
    after = (tmp_path / PROGRESS).read_text()
    assert after.startswith(before)
    assert [json.loads(line)["step"] for line in after.splitlines()] == [0, 4, 8]


def test_groups_give_the_gradient_of_the_whole_batch(tmp_path: Path, data: TaskData, settings: Settings) -> None:
    def gradient(group_symbols: int) -> torch.Tensor:
        training = Training(replace(settings, group_symbols=group_symbols), data, tmp_path / str(group_symbols))
        for module in training.model.modules():
            if hasattr(module, "threshold"):
                module.threshold = 0  # the groups draw different dropout
        training.step()
        return torch.cat([weight.grad.flatten() for weight in training.model.parameters() if weight.grad is not None])

    torch.testing.assert_close(gradient(20), gradient(10_000), rtol=1e-3, atol=1e-6)


def test_patience_ends_it(tmp_path: Path, data: TaskData, settings: Settings) -> None:
    recipe = Recipe(batch_size=16, steps=500, warmup=0, lr=0.0, patience=2, eval_every=1)
    result = Training(replace(settings, recipe=recipe), data, tmp_path).run()
    assert result is not None
    assert result.progress.step == 3  # the first evaluation is the best of all


def test_wrong_checkpoints_are_refused(tmp_path: Path, data: TaskData, settings: Settings) -> None:
    Training(settings, data, tmp_path).save()
    with pytest.raises(UserError, match="has a training with precision 'fp32', but 'bf16' was requested"):
        Training(replace(settings, precision="bf16"), data, tmp_path)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"training.pt is damaged; delete it"):
        Training(settings, data, tmp_path)


def test_a_loss_that_is_not_finite_stops_it(tmp_path: Path, data: TaskData, settings: Settings) -> None:
    training = Training(settings, data, tmp_path)
    with torch.no_grad():
        training.model.pos_embed[0, 0] = math.nan
    with pytest.raises(UserError, match="the loss of step 0 is not finite; try --precision fp32"):
        training.step()


def test_the_learning_rate_rises_and_falls() -> None:
    recipe = Recipe(32, steps=5000, warmup=1000, lr=1e-4, patience=None, eval_every=250)
    assert [schedule(step, recipe) for step in (0, 499, 999, 3000, 4999)] == pytest.approx(
        [1e-3, 0.5, 1, 0.5, 1 / 4000]
    )
    assert recipe.scaled(0.1) == Recipe(32, 500, 100, 1e-4, None, 25)
    assert recipe.scaled(1e-4) == Recipe(32, 1, 0, 1e-4, None, 1)
