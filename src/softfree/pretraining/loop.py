"""From images without labels to weights that ``softfree train --weights`` takes.

::

    config.yaml         all settings
    model.safetensors   the encoder's weights, with the names of the model itself
    metrics.json        loss of the first and the last epoch
    report.html         the loss by epoch; reconstructions only if requested
    logs/, checkpoints/ as in training
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import lightning as L
import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor
from torch.optim import AdamW

from softfree.core.environment import describe_machine, versions
from softfree.core.progress import console
from softfree.core.ranges import check_ranges
from softfree.data.dataset import Sample
from softfree.data.modalities.base import Preprocessing
from softfree.data.modalities.registry import modality_of, preprocessing_from_config, preprocessing_to_config
from softfree.inference.run_directory import RunDirectory, check_fold
from softfree.models.registry import build_model, supported_arguments
from softfree.pretraining.masked_autoencoder import MaskedAutoencoder
from softfree.pretraining.options import PretrainOptions
from softfree.pretraining.report import write_pretraining_report
from softfree.pretraining.samples import Unlabeled, create_loader, find_samples, read_samples
from softfree.training.checkpoints import newest_checkpoint, read_checkpoint
from softfree.training.configuration import refuse_folder
from softfree.training.loaders import readable
from softfree.training.loop import global_rank, run_lock
from softfree.training.microbatches import Step, seed_step
from softfree.training.modality import create_preprocessing, refuse_batches, refuse_foreign_options
from softfree.training.optimizer import create_schedule
from softfree.training.tracking import check_loggers, start_trackers
from softfree.training.trainer import create_trainer, explain_errors, silence_lightning
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.core.files import read_yaml, write_atomically


def pretrain(options: PretrainOptions) -> Path:
    """Pretrain an encoder, write a run directory and return its path.

    Raises:
        UserError: Invalid options or input.
    """
    _check(options)
    refuse_folder(options.out)
    check_loggers(options)
    images = find_samples(options)
    preprocessing = create_preprocessing(options, images.sources)  # type: ignore[arg-type]
    config = _configuration(options, preprocessing, images)
    autoencoder = _build(config, options)
    with run_lock(options.out):
        if global_rank() == 0:
            refuse_folder(options.out)  # it may have been created in the meantime
            RunDirectory(options.out).begin(config)
        return _run(options, config, images, autoencoder, checkpoint=None)


def resume(folder: Path) -> Path:
    """Resume an interrupted pretraining; the weights are those of an uninterrupted one."""
    directory = RunDirectory(folder)
    if not directory.is_run():
        raise UserError(f"{folder} has no {directory.config.name}; expected a folder made by softfree pretrain")
    config = read_yaml(directory.config, "configuration")
    if not isinstance(config, dict) or "pretraining" not in config:
        raise UserError(
            f"{folder} was not made by softfree pretrain; to train a classifier: softfree train --resume {folder}"
        )
    options = _options_of(config, folder)
    images = find_samples(options)
    if images.digest != config["pretraining"]["images_sha256"]:
        raise UserError(f"{options.table} names different images than when this pretraining began; start a new one")
    autoencoder = _build(config, options)
    with run_lock(folder):
        return _run(options, config, images, autoencoder, newest_checkpoint(directory.checkpoints))


def _check(options: PretrainOptions) -> None:
    check_ranges(options)
    check_fold(options)  # type: ignore[arg-type]
    if options.decoder_dim < 16 or options.decoder_dim % 16:
        raise UserError(f"--decoder-dim {options.decoder_dim}: expected a multiple of 16")
    modality = modality_of(options)  # type: ignore[arg-type]
    if modality.padded:
        raise UserError(f"pretraining is not for {modality.plural}: their features come from a pretrained encoder")
    refuse_foreign_options(options)  # type: ignore[arg-type]
    refuse_batches(options)  # type: ignore[arg-type]


def _configuration(options: PretrainOptions, preprocessing: Preprocessing, images: Unlabeled) -> dict[str, Any]:
    stored = {name: str(v) if isinstance(v, Path) else v for name, v in asdict(options).items()}
    stored["table"] = str(options.table.resolve())
    for name in ("image_root", "series", "fold_file"):
        path = getattr(options, name)
        stored[name] = None if path is None else str(path.resolve())
    return {
        "command": shlex.join(["softfree", *sys.argv[1:]]),
        "pretraining": {"images": len(images.sources), "images_sha256": images.digest, "rows": images.note},
        "preprocessing": preprocessing_to_config(preprocessing),
        "model": encoder_arguments(options, preprocessing),
        "options": stored,
        "versions": versions(),
    }


def encoder_arguments(options: PretrainOptions, preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the arguments of the encoder, as ``config.yaml`` has them under ``model``."""
    arguments = {
        "name": options.model,
        "num_classes": 0,
        **preprocessing.model_arguments(),
        "stem": options.stem,
        "attention_options": options.attention_options,
        **options.model_options,
    }
    return supported_arguments(arguments)


def _options_of(config: dict[str, Any], folder: Path) -> PretrainOptions:
    known = {field.name for field in fields(PretrainOptions)}
    values = {name: value for name, value in config["options"].items() if name in known}
    for name in ("table", "image_root", "series", "fold_file"):
        values[name] = None if values.get(name) is None else Path(values[name])
    return PretrainOptions(**(values | {"out": folder}))


def _build(config: dict[str, Any], options: PretrainOptions) -> MaskedAutoencoder:
    """Build the model and check that the devices exist, before any image is read."""
    silence_lightning()
    create_trainer(options)  # type: ignore[arg-type]
    L.seed_everything(options.seed, verbose=False)
    return build_autoencoder(config["model"], options)


def build_autoencoder(encoder: dict[str, Any], options: PretrainOptions) -> MaskedAutoencoder:
    """Build the encoder, from its arguments, and the decoder."""
    return MaskedAutoencoder(
        build_model({"model": encoder}),  # type: ignore[arg-type]
        str(encoder["name"]).partition("_vit")[0],
        options.attention_options,
        mask_ratio=options.mask_ratio,
        decoder_dim=options.decoder_dim,
        decoder_depth=options.decoder_depth,
    )


def _run(
    options: PretrainOptions,
    config: dict[str, Any],
    images: Unlabeled,
    autoencoder: MaskedAutoencoder,
    checkpoint: Path | None,
) -> Path:
    dataset, failed = read_samples(images, preprocessing_from_config(config["preprocessing"]), options, autoencoder)
    _report_unreadable(failed)
    counts = {"samples": len(dataset) - len(failed)}
    trackers = start_trackers(options, counts) if global_rank() == 0 else []
    trainer = create_trainer(options, trackers=trackers)  # type: ignore[arg-type]
    indices = readable(dataset)
    step = Step.cut(len(indices), options.batch_size, options.grad_accum, trainer.global_rank, trainer.world_size)
    trainer.accumulate_grad_batches = step.batches
    module = PretrainingModule(autoencoder, options, step)
    loader = create_loader(dataset, indices, options, step)
    with explain_errors(options.out, "pretrain"):
        if checkpoint is not None:
            # Worker processes start before Lightning sets the epoch of the sampler.
            loader.sampler.set_epoch(read_checkpoint(checkpoint)["epoch"] + 1)  # type: ignore[attr-defined]
        trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    if global_rank() != 0:
        return options.out
    directory = RunDirectory(options.out)
    directory.write_weights(autoencoder.encoder.state_dict())
    history = directory.read_history()
    assert history is not None
    losses = history["train_loss"].dropna()
    facts = {"first_loss": float(losses.iloc[0]), "last_loss": float(losses.iloc[-1]), "epochs": len(losses)}
    write_atomically(directory.metrics, json.dumps(facts | {"machine": describe_machine()}, indent=2))
    for tracker in trackers:
        tracker.finish({"last_loss": facts["last_loss"]})
    write_pretraining_report(directory.report, config, autoencoder, dataset, history, show_images=options.show_images)
    return options.out


def _report_unreadable(failed: dict[int, ReadError]) -> None:
    if failed:
        console.print(f"{len(failed)} images are left out:", style="yellow")
        for error in list(failed.values())[:10]:
            console.print(f"  {error}", highlight=False, markup=False, soft_wrap=True)
        if len(failed) > 10:
            console.print(f"  ... and {len(failed) - 10} more")


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
