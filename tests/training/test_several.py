"""The loss of several targets is the weighted sum of the losses of each over the samples in which it is known."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from softfree.core.options import OptimizerOptions
from softfree.training.callbacks import Patience
from softfree.training.losses import CoxObjective, HazardObjective
from softfree.training.module import ClassifierModule
from softfree.training.several import objectives_of
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.targets import Targets
from softfree_runtime.core.task import Task

TARGETS = Targets.of(
    {
        "ill": Task("binary", ("no", "yes")),
        "grade": Task("ordinal", ("none", "mild", "severe")),
        "volume": Task("regression", ("ml",)),
        "signs": Task("multilabel", ("one", "two", "three")),
    }
)
WEIGHTS = {"ill": 1.0, "grade": 2.0, "volume": 0.5, "signs": 3.0}


def samples(count: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Outputs (count, 8), and targets (count, 6) of which a quarter is unknown."""
    rng = np.random.default_rng(seed)
    targets = np.column_stack(
        [
            rng.integers(0, 2, count),
            rng.integers(0, 3, count),
            rng.normal(900, 50, count),
            rng.integers(0, 2, (count, 3)),
        ]
    ).astype(float)
    targets[rng.random(targets.shape) < 0.25] = np.nan
    return torch.tensor(rng.normal(size=(count, 8)), dtype=torch.float32), torch.tensor(targets)


def reference(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Losses of each target over the samples in which it is known, in plain float64."""
    outputs = outputs.double()
    ill, grade, volume = (~targets[:, column].isnan() for column in range(3))
    truth = targets[grade, 1].long()
    above = [F.logsigmoid(outputs[grade, 2 + cut]) for cut in range(2)]
    below = [F.logsigmoid(-outputs[grade, 2 + cut]) for cut in range(2)]
    chains = torch.stack([below[0], above[0] + below[1], above[0] + above[1]], dim=1)
    numbers = targets[volume, 2]
    error = outputs[volume, 4] - (numbers - numbers.mean()) / numbers.std(correction=0)
    signs = ~targets[:, 3:].isnan()
    present = F.binary_cross_entropy_with_logits(outputs[:, 5:][signs], targets[:, 3:][signs])
    return {
        "ill": float(F.cross_entropy(outputs[ill, :2], targets[ill, 0].long())),
        "grade": float(-chains.gather(1, truth[:, None]).mean()),
        "volume": float(torch.where(error.abs() < 1, error**2 / 2, error.abs() - 0.5).mean()),
        "signs": float(present),
    }


def test_losses_of_survival_are_those_of_its_known_samples() -> None:
    cuts = (10.0, 30.0, 100.0)
    task = Targets.of({"death": Task("survival", ("days",), cuts), "back": Task("survival", ("weeks",))})
    rng = np.random.default_rng(0)
    truth = np.stack([rng.exponential(40, 24).round(), rng.integers(0, 2, 24)] * 2, axis=1)
    truth[3:8, :2] = truth[6:12, 2:] = np.nan
    outputs, targets = torch.tensor(rng.normal(size=(24, 4)), dtype=torch.float32), torch.tensor(truth)
    made = objectives_of(task, truth, OptimizerOptions(), {"death": 1.0, "back": 2.0})
    death, back = np.delete(np.arange(24), np.s_[3:8]), np.delete(np.arange(24), np.s_[6:12])
    expected = {
        "death": float(HazardObjective(cuts)(outputs[death, :3], targets[death, :2])),
        "back": float(CoxObjective()(outputs[back, 3:], targets[back, 2:])),
    }
    for objective in made[:2]:
        losses = {name: float(loss) for name, loss in objective.each(outputs, targets).items()}
        assert losses == pytest.approx(expected, rel=1e-6)
    total = expected["death"] + 2 * expected["back"]
    assert float(made.training(outputs, targets)) == pytest.approx(total, rel=1e-6)
    of_hazards = [
        float(made.training.each(outputs[part], targets[part])["death"]) for part in (slice(12), slice(12, 24))
    ]
    assert np.mean(of_hazards) == pytest.approx(expected["death"], rel=1e-6)


def test_each_loss_is_that_of_its_known_samples() -> None:
    outputs, targets = samples()
    made = objectives_of(TARGETS, targets.numpy(), OptimizerOptions(), WEIGHTS)
    expected = reference(outputs, targets)
    for objective in made[:2]:
        losses = {name: float(loss) for name, loss in objective.each(outputs, targets).items()}
        assert losses == pytest.approx(expected, rel=1e-5)
        total = sum(WEIGHTS[name] * loss for name, loss in expected.items())
        assert float(objective(outputs, targets)) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "class_weights": True, "loss": "mse"}])
def test_loss_and_gradient_do_not_depend_on_how_a_step_is_split(options: dict) -> None:
    outputs, targets = samples()
    objective = objectives_of(TARGETS, targets.numpy(), OptimizerOptions(**options), WEIGHTS).training
    gradients = []
    for sizes in ([40], [10] * 4, [1] * 40, [3, 37]):
        leaf = outputs.clone().requires_grad_()
        parts = zip(leaf.split(sizes), targets.split(sizes), strict=True)
        loss = sum(objective(own, truth) * len(own) for own, truth in parts) / len(outputs)
        loss.backward()
        gradients.append(leaf.grad.clone())
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-4, atol=1e-7)


def test_unknown_targets_have_no_gradient_and_a_batch_without_any_has_a_loss_of_zero() -> None:
    outputs, targets = samples()
    objective = objectives_of(TARGETS, targets.numpy(), OptimizerOptions(), WEIGHTS).training
    leaf = outputs.clone().requires_grad_()
    objective(leaf, targets).backward()
    unknown = targets.isnan()[:, [0, 0, 1, 1, 2, 3, 4, 5]]
    assert (leaf.grad[unknown] == 0).all()
    unreached = targets[:, 1] == 0  # the second cut says nothing about the lowest class
    assert leaf.grad[:, 3][unreached].abs().max() < 1e-7
    unknown[:, 3] |= unreached
    assert (leaf.grad[~unknown] != 0).all()
    leaf = outputs.clone().requires_grad_()
    loss = objective(leaf, torch.full_like(targets, torch.nan))
    loss.backward()
    assert loss.item() == 0
    assert (leaf.grad == 0).all()


def test_a_target_that_training_cannot_learn_is_refused() -> None:
    _, targets = samples()
    targets[:, 2] = torch.where(targets[:, 2].isnan(), torch.nan, 7.0)
    with pytest.raises(UserError, match="target 'volume': all training rows have the target 7"):
        objectives_of(TARGETS, targets.numpy(), OptimizerOptions(), WEIGHTS)
    targets[:, 2] = torch.nan
    with pytest.raises(UserError, match="target 'volume' has no known cell in the training samples"):
        objectives_of(TARGETS, targets.numpy(), OptimizerOptions(), WEIGHTS)


def test_the_validation_score_is_the_mean_of_scores_from_guessing_to_no_error() -> None:
    outputs, targets = samples()
    objectives = objectives_of(TARGETS, targets.numpy(), OptimizerOptions(), WEIGHTS)
    module = ClassifierModule(torch.nn.Identity(), TARGETS, OptimizerOptions(), objectives, [], 0)
    values = module._validation_scores(outputs, targets)
    known = ~targets.isnan().numpy()
    ill = roc_auc_score(targets[known[:, 0], 0], (outputs[:, 1] - outputs[:, 0])[known[:, 0]])
    assert values["val_auroc/ill"] == pytest.approx(ill)
    numbers = targets[known[:, 2], 2].numpy()
    mae = np.abs(outputs[known[:, 2], 4].double().numpy() * numbers.std() + numbers.mean() - numbers).mean()
    assert values["val_mae/volume"] == pytest.approx(mae)
    median = np.sort(numbers)[(len(numbers) - 1) // 2]
    scores = [2 * values[f"val_auroc/{name}"] - 1 for name in ("ill", "grade", "signs")]
    scores.append(1 - mae / np.abs(numbers - median).mean())
    assert values["val_score"] == pytest.approx(np.mean(scores))
    assert values["val_loss/ill"] == pytest.approx(reference(outputs, targets)["ill"], rel=1e-5)


def test_patience_keeps_the_epoch_with_the_best_mean_score(tmp_path: Path) -> None:
    saved = []
    trainer = SimpleNamespace(callback_metrics={}, save_checkpoint=saved.append, should_stop=False)
    patience = Patience(tmp_path / "best.ckpt", 2)
    for score in (0.1, 0.3, 0.2, 0.25):
        trainer.callback_metrics = {"val_score": score, "val_mae/volume": 1.0, "val_auroc/ill": 0.5}
        patience.on_train_epoch_end(trainer, None)
    assert patience.best == 0.3
    assert len(saved) == 2
    assert trainer.should_stop
