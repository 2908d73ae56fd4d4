"""Losses and weights against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from softfree.core.options import NumberLossName
from softfree.data.follow_up import quantile_cuts
from softfree.evaluation.kaplan_meier import survival_at
from softfree.training.losses import (
    CoxObjective,
    Distillation,
    HazardObjective,
    NumberObjective,
    Objective,
    class_weights,
    known_fraction,
    standardization,
)
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.outputs import probabilities
from softfree_runtime.core.survival import Survival
from softfree_runtime.core.task import Task

CLASSES = Task("multiclass", ("a", "b", "c"))
GRADES = Task("ordinal", ("low", "middle", "high", "highest"))
FINDINGS = Task("multilabel", ("x", "y"))


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classes_are_weighed_and_smoothed(logits: Tensor, smoothing: float) -> None:
    targets, weights = np.array([0, 2, 2, 1]), np.array([0.5, 1.0, 2.0])
    logs = np.log(np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True))
    own = weights[targets]
    plain = -(own * logs[np.arange(4), targets]).sum() / 4  # images: not the sum of weights, which a batch decides
    even = -(logs @ weights).sum() / 3 / 4
    loss = Objective(CLASSES, smoothing, torch.tensor(weights, dtype=torch.float32))(logits, torch.tensor(targets))
    assert loss.item() == pytest.approx((1 - smoothing) * plain + smoothing * even, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_unknown_findings_have_no_part(logits: Tensor, smoothing: float) -> None:
    logits = logits[:, :2].requires_grad_()
    targets = torch.tensor([[1, torch.nan], [0, 1], [torch.nan, torch.nan], [1, 0]])
    loss = Objective(FINDINGS, smoothing, torch.tensor([3.0, 0.5]))(logits, targets)
    p = 1 / (1 + np.exp(-logits.detach().numpy()))
    want = targets.numpy() * (1 - smoothing) + smoothing / 2
    losses = -(np.array([3.0, 0.5]) * want * np.log(p) + (1 - want) * np.log(1 - p))
    assert loss.item() == pytest.approx(np.nansum(losses) / 5, rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad == 0, targets.isnan())


def test_a_batch_of_which_nothing_is_known_is_no_loss(logits: Tensor) -> None:
    assert Objective(FINDINGS)(logits[:, :2], torch.full((4, 2), torch.nan)) == 0


def test_rare_classes_weigh_more() -> None:
    targets = np.array([0] * 6 + [1] * 3)  # none of class 2
    weights = class_weights(CLASSES, targets).numpy()
    np.testing.assert_allclose(weights[:2], [9 / 18, 9 / 9])
    assert class_weights(Task("binary", ("a", "b")), targets).numpy()[targets].mean() == pytest.approx(1)
    assert np.isfinite(weights).all()


def test_findings_weigh_as_their_absence_is_often() -> None:
    targets = np.array([[1, 0], [0, 0], [0, np.nan], [0, np.nan]], dtype=np.float32)
    np.testing.assert_allclose(class_weights(FINDINGS, targets), [3, 1])
    np.testing.assert_allclose(class_weights(FINDINGS, np.ones((4, 2), np.float32)), [0.01, 0.01])


@pytest.mark.parametrize("cut", [1, 2, 4])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.3, 0.9, 2.0])], ids=["even", "weighed"])
def test_classes_cut_into_batches_have_the_gradient_of_the_whole(
    logits: Tensor, cut: int, smoothing: float, weights: Tensor | None
) -> None:
    objective, targets = Objective(CLASSES, smoothing, weights), torch.tensor([0, 2, 2, 1])
    whole, parts = (logits.float().clone().requires_grad_() for _ in range(2))
    objective(whole, targets).backward()
    for one, target in zip(parts.split(cut), targets.split(cut), strict=True):
        (objective(one, target) / (4 // cut)).backward()
    torch.testing.assert_close(parts.grad, whole.grad)


@pytest.mark.parametrize("cut", [1, 2])
def test_findings_cut_into_batches_have_the_gradient_of_the_whole(logits: Tensor, cut: int) -> None:
    targets = torch.tensor([[1, torch.nan], [0, 1], [torch.nan, torch.nan], [1, 0]])
    objective = Objective(FINDINGS, 0.1, torch.tensor([3.0, 0.5]), known_fraction(FINDINGS, targets.numpy()))
    whole, parts = (logits[:, :2].float().clone().requires_grad_() for _ in range(2))
    loss = objective(whole, targets)
    loss.backward()
    for one, target in zip(parts.split(cut), targets.split(cut), strict=True):
        (objective(one, target) / (4 // cut)).backward()
    torch.testing.assert_close(parts.grad, whole.grad)
    torch.testing.assert_close(loss, Objective(FINDINGS, 0.1, torch.tensor([3.0, 0.5]))(whole, targets))


def test_grades_have_the_likelihood_of_the_continuation_ratio(logits: Tensor) -> None:
    targets, weights = np.array([0, 3, 1, 2]), np.array([0.5, 1.0, 2.0, 0.7])
    p = 1 / (1 + np.exp(-logits.numpy()))  # P(y > k | y >= k)
    likelihood = [1 - p[0, 0], p[1].prod(), p[2, 0] * (1 - p[2, 1]), p[3, 0] * p[3, 1] * (1 - p[3, 2])]
    loss = Objective(GRADES, weights=torch.tensor(weights, dtype=torch.float32))(logits, torch.tensor(targets))
    assert loss.item() == pytest.approx(-(weights[targets] * np.log(likelihood)).mean(), rel=1e-5)


def test_mixed_grades_share_the_loss(logits: Tensor) -> None:
    mixed = torch.tensor([[0.3, 0, 0.7, 0]] * 4)
    parts = [Objective(GRADES)(logits, torch.full((4,), grade)) for grade in (0, 2)]
    assert Objective(GRADES)(logits, mixed).item() == pytest.approx(0.3 * parts[0].item() + 0.7 * parts[1].item())


def test_sure_and_wrong_about_a_grade_is_a_finite_loss() -> None:
    logits = torch.tensor([[300.0, -300.0, 300.0]], requires_grad=True)
    loss = Objective(GRADES)(logits, torch.tensor([3]))
    loss.backward()
    assert loss.item() == pytest.approx(300)
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0, -1, 0]]


def test_a_student_of_grades_learns_the_teachers_probabilities() -> None:
    teacher, student = torch.tensor([[0.5, -1.0, 2.0]]), torch.tensor([[-0.3, 0.2, 0.1]])
    p, q = (probabilities(logits.numpy(), GRADES, 2.0)[0] for logits in (teacher, student))
    loss = Distillation(GRADES, 2.0)(student, teacher)
    assert loss.item() == pytest.approx(4 * (p * np.log(p / q)).sum(), rel=1e-5)


@pytest.mark.parametrize(("name", "expected"), [("mse", (0.25 + 9) / 2), ("l1", 3.5 / 2), ("huber", (0.125 + 2.5) / 2)])
def test_a_regression_is_measured_in_standard_deviations(name: NumberLossName, expected: float) -> None:
    targets = np.array([3000.0, 3400.0, 2600.0])
    offset, deviation = standardization(targets)
    assert (offset, deviation) == pytest.approx((3000, np.sqrt(320000 / 3)))
    outputs = torch.tensor([[0.5], [3.0]])  # 0.5 and 3 standard deviations above targets at the mean
    loss = NumberObjective(offset, deviation, name)(outputs, torch.tensor([3000.0, 3000.0], dtype=torch.float64))
    assert loss.item() == pytest.approx(expected)


def test_targets_far_from_zero_keep_their_digits() -> None:
    targets = torch.tensor([1e9 + 1, 1e9 - 1], dtype=torch.float64)
    assert NumberObjective(1e9, 1.0, "l1")(torch.zeros(2, 1), targets).item() == pytest.approx(1)


def test_equal_targets_have_no_scale() -> None:
    with pytest.raises(UserError, match="all training rows have the target 2"):
        standardization(np.full(5, 2.0))


def hazards_by_hand(logits: np.ndarray, targets: np.ndarray, cuts: tuple[float, ...]) -> float:
    """Minus the mean log likelihood, interval by interval."""
    starts, total = (0.0, *cuts[:-1]), 0.0
    for row, (time, event) in zip(logits, targets, strict=True):
        for logit, start, end in zip(row, starts, cuts, strict=True):
            hazard = 1 / (1 + np.exp(-logit))
            if (event and start < time <= end) or (event and time == 0 == start):
                total += np.log(hazard)
                break
            seen = end < time if event else (start + end) / 2 <= time
            total += np.log(1 - hazard) if seen else 0.0
    return -total / len(logits)


TIMES = np.array([[0.0, 1], [5, 1], [10, 1], [10.1, 1], [99, 1], [0, 0], [4.9, 0], [5, 0], [20, 0], [65, 0], [200, 0]])
CUTS = (10.0, 30.0, 60.0)


def test_hazards_have_the_likelihood_of_their_intervals() -> None:
    logits = torch.randn(len(TIMES), 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = HazardObjective(CUTS)(logits, torch.tensor(TIMES))
    assert loss.item() == pytest.approx(hazards_by_hand(logits.detach().double().numpy(), TIMES, CUTS), rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[5] == 0).all()  # censored at once: nothing is known


def test_the_loss_of_hazards_does_not_depend_on_batches() -> None:
    """The mean over batches, weighed by their samples, is that of all at once, whatever events a batch has."""
    logits = torch.randn(len(TIMES), 3, generator=torch.Generator().manual_seed(1))
    objective, targets = HazardObjective(CUTS), torch.tensor(TIMES)
    whole = objective(logits, targets)
    parts = [objective(a, b) * len(a) for a, b in zip(logits.split(2), targets.split(2), strict=True)]
    torch.testing.assert_close(torch.stack(parts).sum() / len(TIMES), whole)


def test_hazards_are_measured_where_the_outputs_are() -> None:
    """As in validation on the processor, of a module that was trained on a GPU."""
    loss = HazardObjective(CUTS)(torch.zeros(len(TIMES), 3, device="meta"), torch.tensor(TIMES, device="meta"))
    assert loss.device.type == "meta"


def test_cox_is_the_partial_likelihood_of_a_batch() -> None:
    rng = np.random.default_rng(0)
    log_hazards = rng.normal(0, 1, 20)
    targets = np.stack([rng.permutation(20) + 1.0, rng.integers(0, 2, 20)], axis=1)
    expected = 0.0
    for own, (time, event) in zip(log_hazards, targets, strict=True):
        if event:
            expected -= own - np.log(np.exp(log_hazards[targets[:, 0] >= time]).sum())
    outputs = torch.tensor(log_hazards[:, None], dtype=torch.float32, requires_grad=True)
    loss = CoxObjective()(outputs, torch.tensor(targets))
    assert loss.item() == pytest.approx(expected / 20, rel=1e-5)
    halves = [CoxObjective()(outputs[part], torch.tensor(targets[part])) for part in (slice(10), slice(10, 20))]
    assert sum(halves).item() / 2 < loss.item()  # smaller batches compare less, as the docstring says
    without = CoxObjective()(outputs, torch.tensor(targets * [1, 0]))
    without.backward()
    assert without.item() == 0
    assert outputs.grad is not None
    assert (outputs.grad == 0).all()


def test_hazards_that_know_all_there_is_to_know_are_calibrated() -> None:
    """Of the way censored samples count: survival by the fitted hazards is the Kaplan-Meier estimate, on average."""
    rng = np.random.default_rng(0)
    log_hazards = rng.normal(0, 1, 4000)
    times, ends = rng.exponential(300 / np.exp(log_hazards)), np.minimum(rng.exponential(900, 4000), 1200)
    targets = np.stack([np.minimum(times, ends), times <= ends], axis=1).astype(float)
    cuts = quantile_cuts(targets)
    model, inputs = nn.Linear(1, len(cuts)), torch.tensor(log_hazards[:, None], dtype=torch.float32)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = HazardObjective(cuts)(model(inputs), torch.tensor(targets))
        value.backward()
        return value

    optimizer.step(loss)
    at = np.array([50.0, 150, 400])
    outputs = model(inputs).detach().numpy()
    predicted = Survival(tuple(at)).probabilities(outputs, Task("survival", ("days",), cuts), at).mean(axis=0)
    np.testing.assert_allclose(predicted, survival_at(targets, at), atol=0.01)
