"""What is explained: against its definition by the probability."""

from __future__ import annotations

import pytest
import torch

from softfree.saliency.log_odds import LogOdds
from softfree_runtime.core.outputs import probabilities
from softfree_runtime.core.task import Task

LOGITS = torch.tensor([[3.0, -1.0, 0.5, 2.0], [-200.0, -201.0, -230.0, -199.0], [0.0, 0.0, 0.0, 0.0]]).double()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("task", [Task("multiclass", tuple("abcd")), Task("multilabel", tuple("abcd"))])
@pytest.mark.parametrize("target", range(4))
def test_they_are_those_of_the_calibrated_probability(task: Task, target: int, temperature: float) -> None:
    odds = LogOdds(task.exclusive, temperature)
    p = torch.from_numpy(probabilities(LOGITS.numpy(), task, temperature))[:, target]
    result = odds(LOGITS, target)
    torch.testing.assert_close(result.sigmoid(), p)
    assert torch.equal(result > 0, p > 0.5)
    shares, rest = odds.linearize(LOGITS, target)
    torch.testing.assert_close((shares * LOGITS).sum(1) + rest, result)
    logits = LOGITS.clone().requires_grad_()
    (slope,) = torch.autograd.grad(odds(logits, target).sum(), logits)
    torch.testing.assert_close(shares, slope)


def test_of_two_classes_they_are_the_difference() -> None:
    torch.testing.assert_close(LogOdds(temperature=2)(LOGITS[:, :2], 1), (LOGITS[:, 1] - LOGITS[:, 0]) / 2)
    assert (LogOdds().linearize(LOGITS[:, :2], 1).rest == 0).all()


def test_a_single_output_is_its_own() -> None:
    torch.testing.assert_close(LogOdds(temperature=2)(LOGITS[:, :1], 0), LOGITS[:, 0] / 2)
    assert LogOdds().linearize(LOGITS[:, :1], 0).shares.tolist() == [[1.0]] * 3


def test_a_sure_answer_stays_finite() -> None:
    sure = torch.tensor([[900.0, -900.0, 0.0]])
    assert LogOdds()(sure, 0).tolist() == [900]
    assert LogOdds()(sure, 1).tolist() == [-1800]


@pytest.mark.parametrize("temperature", [0.3, 4.0])
@pytest.mark.parametrize("target", range(5))
def test_of_grades_they_are_those_of_reaching_one(target: int, temperature: float) -> None:
    odds = LogOdds(temperature=temperature, ordered=True)
    p = torch.from_numpy(probabilities(LOGITS.numpy(), Task("ordinal", tuple("abcde")), temperature))
    result = odds(LOGITS, target)
    torch.testing.assert_close(result.sigmoid(), p[:, target:].sum(1) if target else p[:, 0])
    shares, rest = odds.linearize(LOGITS, target)
    torch.testing.assert_close((shares * LOGITS).sum(1) + rest, result)
    logits = LOGITS.clone().requires_grad_()
    (slope,) = torch.autograd.grad(odds(logits, target).sum(), logits)
    torch.testing.assert_close(shares, slope)
