"""``--lr find``: a range test, in which the rate rises with each step of a copy of the model until the loss diverges.

L. Smith, Cyclical learning rates for training neural networks (WACV 2017). The rate is the middle, on a logarithmic
scale, between the one at which the loss begins to fall and the one at which it is lowest.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from softfree.core.options import TrainOptions
from softfree.data.dataset import Sample
from softfree.data.table import Table
from softfree.inference.run_directory import RunDirectory
from softfree.training.distillation import Teacher
from softfree.training.loaders import TrainingSamples, create_loaders, cut_steps, readable
from softfree.training.module import ClassifierModule
from softfree.training.optimizer import create_optimizer
from softfree.training.several import objectives_of
from softfree.training.trainer import PRECISION
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import replacing

FIND = "find"
LOWEST, HIGHEST, STEPS = 1e-6, 1e-1, 100
MIN_STEPS = 20  # before the loss diverges
DIVERGED = 4.0  # times the lowest loss
LEAST_FALL = 0.02  # of the first loss
BEGUN = 0.1  # share of its fall from which the loss is falling
MEMORY = 0.9  # of the running mean of the loss


@dataclass(frozen=True)
class FoundRate:
    """A learning rate and why it was chosen, in a sentence."""

    rate: float
    why: str


def find_rate(
    options: TrainOptions,
    model: nn.Module,
    table: Table,
    samples: TrainingSamples,
    teacher: Teacher | None,
    weights: Mapping[str, float],
) -> FoundRate:
    """Find the peak learning rate on a copy of the model; the model and all random numbers stay as they are.

    Args:
        options: Of the training.
        model: With its first weights.
        table: Rows of the training.
        samples: Training samples.
        teacher: For distillation, or None.
        weights: Weight of each of several targets.
    """
    at_highest = replace(options, lr=HIGHEST)
    step = cut_steps(samples, options)
    targets = table.where("train").targets[readable(samples.train)]
    with isolate_rng(), tempfile.TemporaryDirectory() as folder:
        L.seed_everything(options.seed, verbose=False)
        module = _RangeTest(
            copy.deepcopy(model),
            table.task,
            at_highest,
            objectives_of(table.task, targets, at_highest, weights),
            samples.train_files,
            options.seed,
            teacher,
            options,
            step,
        )
        loader, _ = create_loaders(samples, options, len(table.task.classes), step)
        trainer = L.Trainer(
            accelerator=options.accelerator,
            devices=1,
            precision=PRECISION[options.precision],  # type: ignore[arg-type]
            max_steps=STEPS,
            accumulate_grad_batches=step.batches,
            gradient_clip_val=options.grad_clip or None,
            logger=False,
            enable_checkpointing=False,
            limit_val_batches=0,
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(module, loader)
    losses = module.step_losses(step.batches)
    _write(RunDirectory(options.out).logs / "learning_rates.csv", losses)
    return choose_rate(losses, TrainOptions.lr)


def rates(count: int) -> np.ndarray:
    """Return the rates of the first steps of a range test."""
    return LOWEST * (HIGHEST / LOWEST) ** (np.arange(count) / (STEPS - 1))


def choose_rate(losses: Sequence[float], default: float | str) -> FoundRate:
    """Choose a rate from the losses of the steps of a range test; the default if no rate stands out.

    Args:
        losses: Of each step, up to where the test ended.
        default: Rate to use otherwise.
    """
    smooth = _smoothed(losses)
    fallback = float(default)
    if len(smooth) < MIN_STEPS:
        return FoundRate(fallback, f"learning rate {fallback:g}, the default: the loss diverged at once at every rate")
    if min(smooth) > (1 - LEAST_FALL) * smooth[0]:
        return FoundRate(fallback, f"learning rate {fallback:g}, the default: the loss hardly fell at any rate")
    values, tested = np.array(smooth), rates(len(smooth))
    last = int(values.argmin())
    still_high = values[: last + 1] > values[0] - BEGUN * (values[0] - values[last])
    first = int(np.flatnonzero(still_high)[-1])
    rate = float(f"{math.sqrt(tested[first] * tested[last]):.2g}")
    fell = f"the loss fell from a rate of {tested[first]:.1e}, and was lowest at {tested[last]:.1e}"
    return FoundRate(rate, f"learning rate {rate:g}: in {len(smooth)} steps with rising rates, {fell}")


def _smoothed(losses: Sequence[float]) -> list[float]:
    """Return running means, up to where the loss diverges."""
    smooth: list[float] = []
    mean = 0.0
    for number, loss in enumerate(losses, start=1):
        mean = MEMORY * mean + (1 - MEMORY) * loss
        value = mean / (1 - MEMORY**number)
        if not math.isfinite(value) or (smooth and value > DIVERGED * min(smooth)):
            break
        smooth.append(value)
    return smooth


def _write(path: Path, losses: Sequence[float]) -> None:
    with replacing(path) as temporary:
        pd.DataFrame({"lr": rates(len(losses)), "loss": losses}).to_csv(temporary, index=False)


class _RangeTest(ClassifierModule):
    """A classifier whose learning rate rises with each step, and that keeps its losses."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.losses: list[Tensor] = []
        self.lowest = math.inf

    def training_step(self, batch: Sample, number: int) -> Tensor | None:  # type: ignore[override]
        """Keep the loss; a loss that is not finite ends the test."""
        try:
            loss = super().training_step(batch, number)
        except UserError:
            self.trainer.should_stop = True
            return None
        assert self.step is not None
        self.losses.append(loss.detach().cpu() / self.step.share(len(batch["image"])))
        self.lowest = min(self.lowest, float(self.losses[-1]))
        if float(self.losses[-1]) > 2 * DIVERGED * self.lowest:
            self.trainer.should_stop = True
        return loss

    def configure_optimizers(self) -> Any:
        """Let the rates of all layers rise by the same factor with each step."""
        optimizer = create_optimizer(self.model, self.options)
        schedule = LambdaLR(optimizer, lambda step: float(rates(min(step, STEPS - 1) + 1)[-1] / HIGHEST))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def step_losses(self, batches: int) -> list[float]:
        """Return the mean loss of each whole step."""
        whole = len(self.losses) // batches * batches
        values = np.array([float(loss) for loss in self.losses[:whole]])
        return [float(value) for value in values.reshape(-1, batches).mean(axis=1)]
