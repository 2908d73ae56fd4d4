"""From a table to a finished run directory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from softfree.core.environment import best_device
from softfree.core.options import TrainOptions
from softfree.core.progress import console
from softfree.data.audit.checks import knows_patients
from softfree.data.modalities.base import Preprocessing
from softfree.data.modalities.registry import preprocessing_from_config
from softfree.data.seen_rows import SeenRows
from softfree.data.split_file import write_split
from softfree.data.table import SPLITS, Table
from softfree.data.targets import weights_of
from softfree.inference.run import PART_OF, Run
from softfree.inference.run_directory import RunDirectory
from softfree.models.registry import build_model
from softfree.training.callbacks import ResourceUsage
from softfree.training.checkpoints import BEST, folder_lock, newest_checkpoint, read_checkpoint
from softfree.training.configuration import (
    absolute_paths,
    check_options,
    configuration,
    options_of,
    read_training_table,
    refuse_folder,
)
from softfree.training.distillation import Teacher, open_teacher
from softfree.training.follow_up import say_what_batches_change
from softfree.training.learning_rate import FIND, find_rate
from softfree.training.loaders import TrainingSamples, create_loaders, cut_steps, read_samples, readable
from softfree.training.losses import standardization
from softfree.training.modality import create_preprocessing
from softfree.training.module import ClassifierModule
from softfree.training.progressive_size import SizeSchedule
from softfree.training.results import TrainingResult, describe_cost, measure_run
from softfree.training.several import objectives_of
from softfree.training.tracking import Tracker, check_loggers, public_results, start_trackers
from softfree.training.trainer import create_trainer, explain_errors, silence_lightning
from softfree.training.weights import imitate_softmax, load_weights, options_for_weights, refuse_seen
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import say
from softfree_runtime.core.targets import Targets, single_targets


def train(options: TrainOptions, *, notice: str | None = None, callbacks: Sequence[Callback] = ()) -> TrainingResult:
    """Train a classifier and leave a run directory with predictions, metrics and report.

    Args:
        options: All settings.
        notice: A sentence at the top of all results, such as that the images are synthetic.
        callbacks: Further callbacks of Lightning.

    Raises:
        UserError: Anything that the user can fix.
    """
    check_options(options)
    refuse_folder(options.out)
    check_loggers(options)
    options, choices = options_for_weights(options)
    for sentence in choices:
        console.print(sentence, highlight=False)
    if global_rank() == 0:
        say_what_batches_change(options)
    table = read_training_table(options)
    if global_rank() == 0:
        say(options.table, table.sentences)
    preprocessing = create_preprocessing(options, table.sources)
    for name in ("weights", "teacher"):
        refuse_seen(name, getattr(options, name), table, preprocessing)
    config = configuration(options, table, preprocessing, notice)
    model, teacher = _create_models(options, config, fresh=True)
    with run_lock(options.out):
        if global_rank() == 0:
            refuse_folder(options.out)  # another run may have started meanwhile
            directory = RunDirectory(options.out)
            directory.begin(config)
            write_split(directory.split, table)
        return _train(options, config, table, preprocessing, model, teacher, checkpoint=None, callbacks=callbacks)


def resume(
    folder: Path,
    table: Path | None = None,
    image_root: Path | None = None,
    teacher: Path | None = None,
    *,
    callbacks: Sequence[Callback] = (),
) -> TrainingResult:
    """Resume an interrupted run; the result is the same as without the interruption.

    Args:
        folder: The run directory, which may have been moved.
        table: New path of the table, if it was moved. Its content must be the same.
        image_root: New root folder of the images, if it was moved; default: the old one, or if that is gone, the
            table's folder.
        teacher: New path of the teacher's run, if it was moved. Its weights must be the same.
        callbacks: Further callbacks of Lightning.

    Raises:
        UserError: There is no run to resume, it is still running, or the table or teacher is a different one.
    """
    directory = RunDirectory(folder)
    config = directory.read_config()
    if PART_OF in config:
        raise UserError(f"{folder} is one of several targets of a run: resume {directory.root.parent.parent}")
    options = options_of(config, folder)
    if table is not None:
        options = replace(options, table=table)
    if image_root is not None or (options.image_root and not options.image_root.is_dir()):
        options = replace(options, image_root=image_root)
    if teacher is not None:
        if options.teacher is None:
            raise UserError(f"--teacher {teacher}: the run {folder} has none; leave it out")
        options = replace(options, teacher=teacher)
    if not options.table.exists():
        raise UserError(
            f"{options.table} no longer exists; pass the table's new path: softfree train TABLE --resume {folder}"
        )
    opened_table = read_training_table(options, folder)
    if opened_table.digest != config["table"]["sha256"]:
        raise UserError(f"{options.table} has changed since training began; start a new run with another --out")
    with run_lock(folder):
        checkpoint = newest_checkpoint(directory.checkpoints)
        if directory.is_finished() and (checkpoint is None or _is_complete(read_checkpoint(checkpoint), options)):
            console.print(f"training in {folder} is already finished", highlight=False, markup=False)
            return TrainingResult(Run.load(folder))
        if global_rank() == 0:
            config["options"] |= absolute_paths(options)
            directory.write_config(config)
        model, opened_teacher = _create_models(options, config, fresh=checkpoint is None)
        preprocessing = preprocessing_from_config(config["preprocessing"])
        return _train(options, config, opened_table, preprocessing, model, opened_teacher, checkpoint, callbacks)


def run_lock(out: Path) -> AbstractContextManager[None]:
    """Lock the run directory; in distributed training, the first process locks it for all."""
    return folder_lock(out) if global_rank() == 0 else nullcontext()


def _create_models(options: TrainOptions, config: dict[str, Any], *, fresh: bool) -> tuple[nn.Module, Teacher | None]:
    """Create model and teacher, and check the devices, before any image is read.

    Args:
        options: Pretrained weights, seed, devices.
        config: Contains the model's arguments.
        fresh: Whether pretrained weights are still to be loaded.
    """
    silence_lightning()
    create_trainer(options)
    teacher = open_teacher(options.teacher, config)
    L.seed_everything(options.seed, verbose=False)
    model = build_model(config)
    if options.weights and fresh:
        console.print(str(load_weights(model, options.weights, options.weights_grid)), highlight=False)
    model.set_grad_checkpointing(options.grad_checkpointing)  # type: ignore[operator]
    return model, teacher


def _train(
    options: TrainOptions,
    config: dict[str, Any],
    table: Table,
    preprocessing: Preprocessing,
    model: nn.Module,
    teacher: Teacher | None,
    checkpoint: Path | None,
    callbacks: Sequence[Callback] = (),
) -> TrainingResult:
    """Train to the end, from a checkpoint if there is one, and write all files of the run."""
    samples = read_samples(table, preprocessing, options)
    _report_unreadable(samples)
    with explain_errors(options.out):
        if options.weights and checkpoint is None:
            note = imitate_softmax(model, config["model"], options.weights, samples.train, options.weights_grid)
            if note:
                console.print(note, highlight=False)
        found = find_rate(options, model, table, samples, teacher, weights_of(config)) if options.lr == FIND else None
    if found is not None:
        console.print(found.why, highlight=False, soft_wrap=True)
        options = replace(options, lr=found.rate)
        config["options"]["lr"] = found.rate
        RunDirectory(options.out).write_config(config)  # so that a resumed run does not search again
    if options.progress and global_rank() == 0:
        console.print(_header(options, table, model), highlight=False, markup=False, soft_wrap=True)
    names = table.task.classes if isinstance(table.task, Targets) else ()
    trackers = start_trackers(options, _counts(table, model), names) if global_rank() == 0 else []
    usage = _fit(model, config, options, table, samples, teacher, checkpoint, trackers, callbacks)
    if global_rank() != 0:
        return TrainingResult(Run(options.out, config))
    directory = RunDirectory(options.out)
    directory.write_weights(model.state_dict())
    config["table"] |= {"unreadable": len(samples.failed), "partial": len(samples.partial)}
    train_targets = table.where("train").targets[readable(samples.train)]
    standards = {
        name: dict(zip(("mean", "standard_deviation"), standardization(own[~np.isnan(own)]), strict=True))
        for name, task, own in single_targets(table.task, train_targets)
        if task.numeric
    }
    if standards:
        config["target"] = standards.get("", config.get("target", {}) | standards)
    directory.write_config(config)
    if not directory.cost.is_file():  # else training was complete, and only results were missing
        directory.write_cost(describe_cost(model, samples.shape(), usage))
    SeenRows.of(table).write(directory.seen)
    result = measure_run(options, table, samples)
    if result.evaluation is not None:
        for tracker in trackers:
            tracker.finish(public_results(result.evaluation.metrics, result.evaluation.split, names))
    return result


def _fit(
    model: nn.Module,
    config: dict[str, Any],
    options: TrainOptions,
    table: Table,
    samples: TrainingSamples,
    teacher: Teacher | None,
    checkpoint: Path | None,
    trackers: Sequence[Tracker],
    callbacks: Sequence[Callback],
) -> dict[str, Any]:
    """Train ``model`` in place, load the weights to keep into it, and return the resource usage of all sessions."""
    train_targets = table.where("train").targets[readable(samples.train)]
    size_schedule = SizeSchedule.of(options)
    trainer = create_trainer(options, size_schedule.work, trackers, callbacks)
    step = cut_steps(samples, options, trainer.global_rank, trainer.world_size)
    trainer.accumulate_grad_batches = step.batches  # fewer than --grad-accum where an epoch is shorter
    module = ClassifierModule(
        model,
        table.task,
        options,
        objectives_of(table.task, train_targets, options, weights_of(config)),
        samples.train_files,
        options.seed,
        teacher,
        options,
        step,
        size_schedule,
    )
    train_loader, validation_loader = create_loaders(samples, options, len(table.task.classes), step)
    last = None if checkpoint is None else read_checkpoint(checkpoint)
    usage = next(callback for callback in trainer.callbacks if isinstance(callback, ResourceUsage))  # type: ignore[attr-defined]
    if last is not None:
        usage.load_state_dict(last["callbacks"].get("ResourceUsage", usage.previous))
    with explain_errors(options.out):
        if last is None or not _is_complete(last, options):
            if last is not None:
                # Worker processes start before Lightning tells the sampler the epoch.
                train_loader.sampler.set_epoch(last["epoch"] + 1)  # type: ignore[attr-defined]
            trainer.fit(module, train_loader, validation_loader, ckpt_path=checkpoint, weights_only=True)
        weights_to_keep = _best_or_last(options)["state_dict"]
    model.load_state_dict({k.removeprefix("model."): v for k, v in weights_to_keep.items() if k.startswith("model.")})
    # Checkpoints of earlier versions do not record the usage before them.
    return {**usage.state_dict(), "resumed": last is not None and "ResourceUsage" not in last["callbacks"]}


def _is_complete(checkpoint: dict[str, Any], options: TrainOptions) -> bool:
    """Whether training was complete when a checkpoint was written: after the last epoch, or stopped by --patience."""
    stopped = checkpoint["callbacks"].get("Patience", {}).get("stopped", False)
    return stopped or checkpoint["epoch"] + 1 >= options.epochs


def _best_or_last(options: TrainOptions) -> dict[str, Any]:
    """Read the checkpoint whose weights are kept: the best epoch with --patience, else the last.

    Raises:
        UserError: The checkpoint of the best epoch is missing or damaged.
    """
    folder = RunDirectory(options.out).checkpoints
    newest = newest_checkpoint(folder)
    assert newest is not None
    last = read_checkpoint(newest)
    if options.patience is None or last["callbacks"].get("Patience", {}).get("best") == -math.inf:
        return last
    try:
        return read_checkpoint(folder / BEST)
    except (UserError, OSError):
        raise UserError(
            f"{folder / BEST}, the epoch that --patience keeps, is missing or damaged; train again with another --out"
        ) from None


def global_rank() -> int:
    """Return the rank of this process in distributed training; Lightning reads it from the launcher's variables."""
    return int(getattr(rank_zero_only, "rank", 0))


def _report_unreadable(samples: TrainingSamples) -> None:
    for errors, words in (
        (samples.failed, "samples cannot be read and are skipped"),
        (samples.partial, "cases are used without images that cannot be read"),
    ):
        if errors:
            console.print(f"{len(errors)} {words}:", style="yellow")
        for row, error in list(errors.items())[:10]:
            console.print(f"  row {row}: {error}", highlight=False, markup=False, soft_wrap=True)
        if len(errors) > 10:
            console.print("  ... softfree check lists all of them")


def _counts(table: Table, model: nn.Module) -> dict[str, Any]:
    """Return numbers that describe a run without naming anything."""
    counts = {f"{split}_samples": len(table.where(split).frame) for split in SPLITS}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return counts | {"task": table.task.kind, "num_classes": len(table.task.classes), "parameters": parameters}


def _header(options: TrainOptions, table: Table, model: nn.Module) -> str:
    """Describe data, model and training in one line each, of at most 80 characters where names allow."""
    counts = ", ".join(f"{len(table.where(split).frame)} {split}" for split in SPLITS)
    patients = f" of {table.frame['patient'].nunique()} patients" if knows_patients(table) else ""
    classes = table.task.classes
    names = ", ".join(classes[:4]) + (f" and {len(classes) - 4} more" if len(classes) > 4 else "")
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    device = str(best_device()) if options.accelerator == "auto" else options.accelerator
    devices = f" x {options.devices}" if str(options.devices) not in ("1", "auto") else ""
    step = f"{options.batch_size} x {options.grad_accum}" if options.grad_accum > 1 else f"{options.batch_size}"
    hardware = f"{device}{devices}, precision {options.precision}"
    sizes = SizeSchedule.of(options).in_words()
    average = f", EMA {options.ema:g}" if options.ema is not None else ""
    lines = [
        f"data     {counts} samples{patients}; {table.task.kind}: {names}",
        f"model    {options.model}, {parameters:.3g} M parameters, pool {options.pool}",
        f"training {options.epochs} epochs, batch size {step}, {hardware}{average}",
    ]
    if sizes:
        lines.append(f"images   {sizes}")
    return "\n".join(lines)
