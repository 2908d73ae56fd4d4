"""From a table to a finished run directory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from softfree.core.environment import describe_machine, peak_memory
from softfree.core.progress import console
from softfree.data.audit.checks import counted
from softfree.data.audit.near_duplicates import MOST, find_pairs
from softfree.data.modalities.registry import preprocessing_from_config
from softfree.data.reduced import Reduced
from softfree.data.seen import Seen
from softfree.data.split_file import write_split
from softfree.data.table import Table
from softfree.inference.run import Run, build_model
from softfree.inference.run_directory import RunDirectory
from softfree.reporting.baselines import Beside, fit_baselines
from softfree.reporting.evaluate import write_results
from softfree.reporting.options import EvaluateOptions
from softfree.reporting.scoring import calibrate, predict_rows, write_predictions
from softfree.training.callbacks import Spent
from softfree.training.checkpoints import BEST, claimed, newest_checkpoint, read_checkpoint
from softfree.training.configuration import (
    check_options,
    configuration,
    options_of,
    read_training_table,
    refuse_folder,
    stated_places,
)
from softfree.training.distillation import Teacher, open_teacher
from softfree.training.flops import multiply_adds
from softfree.training.loaders import Samples, create_loaders, cut_steps, read_samples, readable
from softfree.training.losses import class_weights, known_share
from softfree.training.module import ClassifierModule
from softfree.training.options import Split, TrainOptions
from softfree.training.progressive_size import Growth
from softfree.training.start_message import header
from softfree.training.trainer import create_trainer, explained, quieten
from softfree.training.weights import fit_options, imitate_softmax, load_weights
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.notes import say


def train(options: TrainOptions, *, notice: str | None = None) -> Run:
    """Train a classifier and leave a run directory.

    Args:
        options: everything that can be set.
        notice: a sentence that stands at the head of all results, for instance that the images are computed.

    Returns:
        The calibrated run, with its predictions, metrics and report written.

    Raises:
        UserError: for whatever the user can mend.
    """
    check_options(options)
    refuse_folder(options.out)
    options, chosen = fit_options(options)
    for sentence in chosen:
        console.print(sentence, highlight=False)
    table = read_training_table(options)
    if global_rank() == 0:
        say(options.table, table.sentences)
    config = configuration(options, table, notice)
    model, teacher = _create_models(options, config, fresh=True)
    with run_folder(options.out):
        if global_rank() == 0:
            refuse_folder(options.out)  # another training may have come and gone
            RunDirectory(options.out).write_config(config)
            write_split(RunDirectory(options.out).split, table)
        return _go_on(options, config, table, model, teacher, checkpoint=None)


def resume(folder: Path, table: Path | None = None, image_root: Path | None = None, teacher: Path | None = None) -> Run:
    """Go on with an interrupted training, to the result that it would have had without the interruption.

    Args:
        folder: the run directory, wherever it lies now.
        table: where the table lies now; default: where it was. Its content must be the same.
        image_root: where the root folder of the images lies now; default: where it was, or if that is gone, the
            table's folder.
        teacher: where the teacher's run lies now; default: where it was. Its weights must be the same.

    Raises:
        UserError: no training to go on with, another table or teacher, or one that still runs.
    """
    config = RunDirectory(folder).read_config()
    options = options_of(config, folder)
    if table is not None:
        options = replace(options, table=table)
    if image_root is not None or (options.image_root and not options.image_root.is_dir()):
        options = replace(options, image_root=image_root)
    if teacher is not None:
        if options.teacher is None:
            raise UserError(f"--teacher {teacher}: the training in {folder} has none; leave it out")
        options = replace(options, teacher=teacher)
    if not options.table.exists():
        raise UserError(
            f"{options.table} is not there any more; name the table where it lies now: softfree train TABLE --resume"
            f" {folder}"
        )
    read = read_training_table(options, folder)
    if read.digest != config["table"]["sha256"]:
        raise UserError(f"{options.table} has changed since this training began; start a new one with another --out")
    with run_folder(folder):
        checkpoint = newest_checkpoint(RunDirectory(folder).checkpoints)
        if _finished(folder, checkpoint, options):
            console.print(f"the training in {folder} has ended; nothing is left to do", highlight=False, markup=False)
            return Run.load(folder)
        if global_rank() == 0:
            config["options"] |= stated_places(options)
            RunDirectory(folder).write_config(config)
        model, opened = _create_models(options, config, fresh=checkpoint is None)
        return _go_on(options, config, read, model, opened, checkpoint)


def _finished(folder: Path, checkpoint: Path | None, options: TrainOptions) -> bool:
    """Whether a training has left all its results; its checkpoints may have been deleted since."""
    if not RunDirectory(folder).is_finished():
        return False
    return checkpoint is None or _ended(read_checkpoint(checkpoint), options)


def run_folder(out: Path) -> AbstractContextManager[None]:
    """The claim on the run directory, which one process of several has for all."""
    return claimed(out) if global_rank() == 0 else nullcontext()


def _create_models(options: TrainOptions, config: dict[str, Any], *, fresh: bool) -> tuple[nn.Module, Teacher | None]:
    """Make model and teacher, and see whether the devices are there, before any image is read.

    Args:
        options: weights to start from, seed, devices.
        config: the model's arguments.
        fresh: whether pretrained weights are still to be read.
    """
    quieten()
    create_trainer(options)
    teacher = open_teacher(options.teacher, config)
    L.seed_everything(options.seed, verbose=False)
    model = build_model(config)
    if options.weights and fresh:
        console.print(str(load_weights(model, options.weights, options.weights_grid)), highlight=False)
    model.set_grad_checkpointing(options.grad_checkpointing)  # type: ignore[operator]
    return model, teacher


def _go_on(
    options: TrainOptions,
    config: dict[str, Any],
    table: Table,
    model: nn.Module,
    teacher: Teacher | None,
    checkpoint: Path | None,
) -> Run:
    samples = read_samples(table, preprocessing_from_config(config["preprocessing"]), options)
    _report_unreadable(samples)
    if options.weights and checkpoint is None:
        said = imitate_softmax(model, config["model"], options.weights, samples.train, options.weights_grid)
        if said:
            console.print(said, highlight=False)
    if options.progress and global_rank() == 0:
        console.print(header(options, table, model), highlight=False, markup=False, soft_wrap=True)
    known = _fit(model, options, table, samples, teacher, checkpoint)
    if global_rank() != 0:
        return Run(options.out, config)
    directory = RunDirectory(options.out)
    directory.write_weights(model.state_dict())
    config["table"]["unreadable"] = len(samples.failed)
    directory.write_config(config)
    if not directory.cost.is_file():  # of a training that had ended, only results were missing
        directory.write_cost(_cost(model, samples.shape(), known))
    Seen.of(table).write(directory.seen)
    return finish(options, table, samples)


def finish(options: TrainOptions, table: Table, samples: Samples) -> Run:
    """Calibrate a trained run on validation, measure it on test (else on validation), and write the results.

    Simpler models are fitted on what little was kept of the samples, and measured on the same ones.
    """
    run = Run.load(options.out)
    parts = {split: table.where(split) for split in ("train", "val")}
    baselines = fit_baselines(parts, samples.reduced, run.preprocessing.kind)
    baselines.write(run.directory.baselines)
    splits: list[Split] = ["val", "test"] if len(table.where("test").frame) else ["val"]
    measured = EvaluateOptions(
        split=splits[-1],
        seed=options.seed,
        show_images=options.show_images,
        maps=options.maps,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        progress=options.progress,
        **options.streaming,
    )
    few = len(table.frame) <= MOST
    beside = {
        split: Beside(baselines, run.task, run.preprocessing, len(table.where(split).frame), thumbnails=few)
        for split in splits
    }
    frames = {split: predict_rows(run, table.where(split), measured, beside[split]) for split in splits}
    _report_copies(run, table, samples.reduced | {split: one.reduced for split, one in beside.items()})
    run = calibrate(run, frames["val"])
    both = pd.concat(frames.values(), ignore_index=True)
    write_predictions(run.directory.predictions, both, run)
    write_results(run, table, frames[splits[-1]], measured)
    run.directory.write_digests()
    return run


def _fit(
    model: nn.Module,
    options: TrainOptions,
    table: Table,
    samples: Samples,
    teacher: Teacher | None,
    checkpoint: Path | None,
) -> dict[str, Any]:
    """Train ``model`` in place, leave it with the weights to keep, and return what all sessions spent."""
    train_targets = table.where("train").targets[readable(samples.train)]
    weights = class_weights(table.task, train_targets) if options.class_weights else None
    growth = Growth.of(options)
    trainer = create_trainer(options, growth.work)
    step = cut_steps(samples, options, trainer.global_rank, trainer.world_size)
    trainer.accumulate_grad_batches = step.batches  # fewer than asked for where an epoch has no more
    module = ClassifierModule(
        model,
        table.task,
        options,
        weights,
        samples.train_files,
        options.seed,
        teacher,
        options,
        known_share(table.task, train_targets),
        step,
        growth,
    )
    train_loader, validation_loader = create_loaders(samples, options, len(table.task.classes), step)
    begun = None if checkpoint is None else read_checkpoint(checkpoint)
    spent = next(one for one in trainer.callbacks if isinstance(one, Spent))  # type: ignore[attr-defined]
    if begun is not None:
        spent.load_state_dict(begun["callbacks"].get("Spent", spent.before))
    with explained(options.out):
        if begun is None or not _ended(begun, options):
            if begun is not None:
                # Reading processes start before Lightning names the epoch to the sampler.
                train_loader.sampler.set_epoch(begun["epoch"] + 1)  # type: ignore[attr-defined]
            trainer.fit(module, train_loader, validation_loader, ckpt_path=checkpoint, weights_only=True)
        state = _kept(options)["state_dict"]
    model.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
    # Checkpoints of earlier versions do not say what was spent before them.
    return {**spent.state_dict(), "resumed": begun is not None and "Spent" not in begun["callbacks"]}


def _ended(checkpoint: dict[str, Any], options: TrainOptions) -> bool:
    """Whether a training had ended when its checkpoint was written, by its number of epochs or out of patience."""
    stopped = checkpoint["callbacks"].get("Patience", {}).get("stopped", False)
    return stopped or checkpoint["epoch"] + 1 >= options.epochs


def _kept(options: TrainOptions) -> dict[str, Any]:
    """Read the checkpoint of the weights to keep: of the best epoch, where one was waited for, else of the last.

    Raises:
        UserError: there was a best epoch, and its checkpoint is gone or damaged.
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
            f"{folder / BEST}, the epoch that --patience keeps, is gone or damaged; train again with another --out"
        ) from None


def global_rank() -> int:
    """Number of this process among those that train together; Lightning finds it in the launcher's variables."""
    return int(getattr(rank_zero_only, "rank", 0))


def _report_unreadable(samples: Samples) -> None:
    if not samples.failed:
        return
    console.print(f"[yellow]{len(samples.failed)} samples cannot be read and are left out:[/]")
    for row, error in list(samples.failed.items())[:10]:
        console.print(f"  row {row}: {error}", highlight=False, markup=False)
    if len(samples.failed) > 10:
        console.print("  ... all of them: softfree check")


def _report_copies(run: Run, table: Table, reduced: Mapping[str, Reduced]) -> None:
    """Say, here and in the report, which images are all but equal to one of another split."""
    thumbnails = {split: part.thumbnails for split, part in reduced.items() if part.thumbnails is not None}
    if not thumbnails:
        return
    rows = np.concatenate([table.where(split).frame["row"].to_numpy() for split in thumbnails])
    splits = np.repeat(list(thumbnails), [len(part) for part in thumbnails.values()])
    pairs = [(a, b) for a, b, _ in find_pairs(np.concatenate(list(thumbnails.values()))) if splits[a] != splits[b]]
    if not pairs:
        return
    named = [f"{rows[a]} ({splits[a]}) and {rows[b]} ({splits[b]})" for a, b in pairs[:3]]
    more = f", and {len(pairs) - 3} more" if len(pairs) > 3 else ""
    said = f"{counted(len(pairs), 'pair')} of equal or all but equal images in different splits, so that scores are too"
    said += f" good: rows {'; '.join(named)}{more}; see: softfree check"
    console.print(said, style="yellow", highlight=False, markup=False, soft_wrap=True)
    run.config["table"]["copies"] = said
    run.directory.write_config(run.config)


def _cost(model: nn.Module, shape: tuple[int, ...], spent: dict[str, Any]) -> dict[str, Any]:
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "multiply_adds": multiply_adds(model, (1, *shape)),
        "shape": list(shape),
        "seconds": round(spent["seconds"], 1),
        "cpu_seconds": round(spent["cpu_seconds"], 1),
        "resumed": spent["resumed"],
        "peak_bytes": max(int(spent["peak_bytes"]), peak_memory()),
        "machine": describe_machine(),
    }
