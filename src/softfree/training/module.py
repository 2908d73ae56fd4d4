"""The Lightning module: training step, validation, optimizer and schedule."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from softfree.attention import Attention
from softfree.core.options import OptimizerOptions, StreamOptions
from softfree.data.dataset import Sample
from softfree.evaluation.scores import Scores, undefined_reason
from softfree.evaluation.survival_metrics import c_index
from softfree.models.layers import clear_drop_paths, draw_drop_paths
from softfree.streaming.adaptive import AdaptiveForward
from softfree.training.distillation import Teacher
from softfree.training.losses import Distillation, Objective
from softfree.training.microbatches import Step, seed_step
from softfree.training.optimizer import create_optimizer, create_schedule
from softfree.training.progressive_size import SizeSchedule
from softfree.training.several import Objectives, SeveralObjectives
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.outputs import probabilities
from softfree_runtime.core.survival import Survival
from softfree_runtime.core.task import Task


class ClassifierModule(L.LightningModule):
    """A classifier in training.

    Args:
        model: Maps pixels (B, C, H, W) to logits (B, K).
        task: What is predicted.
        options: The recipe.
        objectives: The losses; None for those of classes or findings without weights.
        step: How the images of a step are split into batches; default: each batch is a step.
        size_schedule: Image size of each epoch; default: constant.
        files: Paths of the training images, to name a batch whose loss is not finite.
        seed: Seeds stochastic depth, with epoch and step, so that a resumed run repeats an uninterrupted one.
        teacher: Teacher for distillation, in addition to the labels, or None.
        stream: When to stream samples.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        options: OptimizerOptions,
        objectives: Objectives | None,
        files: list[str],
        seed: int,
        teacher: Teacher | None = None,
        stream: StreamOptions | None = None,
        step: Step | None = None,
        size_schedule: SizeSchedule | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.adaptive = AdaptiveForward(model, stream or StreamOptions(), options.precision)
        self.task = task
        self.options = options
        self.files = files
        self.seed, self.step, self.size_schedule = seed, step, size_schedule
        self.objective, self.validation_objective, self.standard = objectives or Objectives(
            Objective(task, options.label_smoothing), Objective(task)
        )
        self.teacher = teacher
        self.distillation = Distillation(task, options.teacher_temperature)
        self._validated: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_fit_start(self) -> None:
        """Move the teacher, which Lightning does not know, to the device of the student."""
        if self.teacher is not None:
            self.teacher.to(self.device)

    def on_train_batch_start(self, batch: Sample, number: int) -> None:
        """Seed by epoch and step; stochastic depth is drawn for the whole step."""
        step = self.step or Step(len(batch["image"]), len(batch["image"]))
        seed_step(self.seed, self.current_epoch, step.number(number), 0)
        rows = step.rows(number, len(batch["image"]))
        draw_drop_paths(self.model, step.images, rows, self.device)
        seed_step(self.seed, self.current_epoch, number, self.global_rank)
        for layer in self.model.modules():
            if isinstance(layer, Attention):
                layer.begin_batch(step.begins(number))

    def on_train_batch_end(self, *_: Any) -> None:
        """Discard the draws."""
        clear_drop_paths(self.model)

    def training_step(self, batch: Sample, _: int) -> Tensor:
        """Return the loss; UserError with step and files if it is not finite."""
        images, targets = batch["image"], batch["target"]
        if self.size_schedule is not None:
            images = self.size_schedule(images, self.current_epoch)
        logits = self.adaptive(images)
        loss = self.objective(logits, targets)
        if self.teacher is not None:
            weight = self.options.teacher_weight
            loss = (1 - weight) * loss + weight * self.distillation(logits, self.teacher(images))
        if not torch.isfinite(loss):
            raise UserError(self._not_finite(loss.item(), batch["index"]))
        self.log("train_loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(images))
        return loss if self.step is None else loss * self.step.share(len(images))

    def validation_step(self, batch: Sample, _: int) -> None:
        """Collect the logits until the end of the epoch."""
        index = torch.as_tensor(batch["index"], device=self.device)
        self._validated.append((index, self.adaptive(batch["image"]).float(), batch["target"]))

    def on_validation_epoch_end(self) -> None:
        """Log loss and AUROC, absolute error or C-index, over all validation images, each once on any devices."""
        index, logits, targets = (torch.cat(parts) for parts in zip(*self._validated, strict=True))
        self._validated.clear()
        if self.trainer.world_size > 1:
            gathered: Any = self.all_gather((index, logits, targets))
            index, logits, targets = (tensor.flatten(0, 1) for tensor in gathered)
        _, unique = np.unique(index.cpu().numpy(), return_index=True)
        logits, targets = logits.cpu()[unique], targets.cpu()[unique]
        self.log("val_loss", self.validation_objective(logits, targets), prog_bar=True, rank_zero_only=False)
        for name, value in self._validation_scores(logits, targets).items():
            self.log(name, value, prog_bar=True, rank_zero_only=False)

    def _validation_scores(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """Return AUROC or absolute error; of several targets those of each, their losses, and their mean score."""
        if not isinstance(self.validation_objective, SeveralObjectives):
            name, value = validation_score(self.task, logits, targets, self.standard)
            return {name: value}
        values, scores = {}, []
        for target, part in self.validation_objective.items():
            own, truth = part.known(logits, targets)
            if not len(own):
                continue
            values[f"val_loss/{target}"] = float(part(logits, targets))
            name, value = validation_score(part.task, own, truth, part.standard)
            values[f"{name}/{target}"] = value
            scores.append(normalized_score(part.task, value, truth))
        return values | {"val_score": float(np.nanmean(scores)) if np.isfinite(scores).any() else math.nan}

    def configure_optimizers(self) -> Any:
        """AdamW and its learning rate schedule per step."""
        optimizer = create_optimizer(self.model, self.options)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = create_schedule(optimizer, steps, self.options.warmup_fraction)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _not_finite(self, loss: float, index: Any) -> str:
        names = ", ".join(self.files[int(i)] for i in index)
        return (
            f"the loss is {loss} at epoch {self.current_epoch + 1}, step {self.global_step}; "
            f"the last good epoch is kept: lower --lr, use --precision fp32, or inspect the batch: {names}"
        )


def validation_score(
    task: Task, logits: Tensor, targets: Tensor, standard: tuple[float, float] | None
) -> tuple[str, float]:
    """Return name and value of what a task is validated by: AUROC, C-index, or the absolute error of a number."""
    if standard is not None:
        mean, std = standard
        return "val_mae", float((logits[:, 0].double() * std + mean - targets.double()).abs().mean())
    if task.timed:
        return "val_c_index", c_index(Survival(()).risks(logits.numpy(), task), targets.numpy())
    scores = Scores(task, probabilities(logits.numpy(), task), targets.numpy(), np.arange(len(targets)))
    return "val_auroc", mean_auroc(scores)


def normalized_score(task: Task, value: float, targets: Tensor) -> float:
    """Return a score that is 0 without any knowledge and 1 without any error, so that targets can be averaged.

    Args:
        task: The task.
        value: Its :func:`validation_score`.
        targets: Of the validation samples; the error of a number is compared with that of their median.
    """
    if not task.numeric:
        return 2 * value - 1
    least = float((targets.double() - targets.double().median()).abs().mean())
    return 1 - value / least if least > 0 else math.nan


def mean_auroc(scores: Scores) -> float:
    """Mean AUROC over scored classes, or cuts between ordered ones, with positives and negatives; NaN without any."""
    ranked = [scores.above(k) for k in scores.task.scored[:-1]] if scores.task.ordered else None
    pairs = [pair[:2] for pair in ranked or [scores.one_vs_rest(k) for k in scores.task.scored]]
    areas = [roc_auc_score(y, p) for y, p in pairs if undefined_reason(y, p) is None]
    return float(np.mean(areas)) if areas else math.nan
