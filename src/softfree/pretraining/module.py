"""The Lightning module of pretraining."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor
from torch.optim import AdamW

from softfree.data.dataset import Sample
from softfree.pretraining.masked_autoencoder import MaskedAutoencoder
from softfree.pretraining.options import PretrainOptions
from softfree.training.microbatches import Step, seed_step
from softfree.training.optimizer import create_schedule
from softfree_runtime.core.errors import UserError


class PretrainingModule(L.LightningModule):
    """A masked autoencoder in training.

    Args:
        model: The autoencoder.
        options: The options; seed and epoch determine the masks, so that a resumed run equals an uninterrupted one.
        step: How the images of a step are divided into batches.
    """

    def __init__(self, model: MaskedAutoencoder, options: PretrainOptions, step: Step) -> None:
        super().__init__()
        self.model, self.options, self.step = model, options, step

    def on_train_batch_start(self, batch: Sample, number: int) -> None:
        """Make random numbers a function of seed, epoch and step alone."""
        seed_step(self.options.seed, self.current_epoch, self.step.number(number), 0)

    def training_step(self, batch: Sample, number: int) -> Tensor:
        """Return the loss; raises UserError with the step when it is not finite."""
        images = batch["image"]
        loss = self.model(images, self.step.images, self.step.rows(number, len(images))).loss
        if not torch.isfinite(loss):
            raise UserError(
                f"the loss is {loss.item()} at epoch {self.current_epoch + 1}, step {self.global_step}; the last good"
                " epoch is kept: lower --lr, or use --precision fp32"
            )
        self.log("train_loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(images))
        return loss * self.step.share(len(images))

    def configure_optimizers(self) -> Any:
        """Create AdamW and its schedule, updated at each optimizer step."""
        excluded = tuple(self.model.no_weight_decay())
        groups = param_groups_weight_decay(self.model, self.options.weight_decay, no_weight_decay_list=excluded)
        optimizer = AdamW(groups, lr=self.options.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = create_schedule(optimizer, steps, self.options.warmup_fraction)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
