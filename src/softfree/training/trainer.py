"""Lightning's trainer, set up from the options."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from softfree.core.memory import is_out_of_memory
from softfree.core.options import TrainOptions
from softfree.inference.run_directory import RunDirectory
from softfree.training.callbacks import EpochReport, History, Patience, ResourceUsage, WarmedAverage
from softfree.training.checkpoints import BEST, AtomicCheckpointIO
from softfree.training.tracking import logger_names
from softfree_runtime.core.errors import UserError

PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def create_trainer(
    options: TrainOptions,
    work: Callable[[int], float] = lambda _: 1.0,
    trackers: Sequence[Logger] = (),
    further: Sequence[Callback] = (),
) -> L.Trainer:
    """Create a trainer that checkpoints after each epoch, logs to the run directory, and uses our own samplers.

    Args:
        options: All settings.
        work: Relative work of an epoch, counted from 0, to estimate the remaining time.
        trackers: Further loggers.
        further: Further callbacks.

    Raises:
        UserError: Devices are missing, or cannot share a batch.
    """
    directory = RunDirectory(options.out)
    checkpoints = directory.checkpoints
    # Before the checkpoint callback, which saves their state.
    callbacks: list[Callback] = [ResourceUsage(), History(directory)]
    if options.patience is not None:
        callbacks.append(Patience(checkpoints / BEST, options.patience))
    callbacks.append(
        ModelCheckpoint(checkpoints, filename="last", enable_version_counter=False, save_on_train_epoch_end=True)
    )
    if options.ema is not None:
        callbacks.append(WarmedAverage(options.ema))
    if options.progress:
        callbacks.append(EpochReport(work))
    callbacks += further
    with explain_errors(options.out), _explain_device_errors():
        trainer = _trainer(options, callbacks, trackers)
    if options.batch_size % trainer.world_size:
        raise UserError(
            f"--batch-size {options.batch_size} cannot be shared by {trainer.world_size} devices; expected a multiple"
        )
    return trainer


@contextmanager
def _explain_device_errors() -> Iterator[None]:
    """Turn Lightning's error about an unknown accelerator, strategy or device into one line."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise UserError(f"{_first_line(error)} See --accelerator, --devices and --strategy") from None


def _trainer(options: TrainOptions, callbacks: list[Callback], trackers: Sequence[Logger]) -> L.Trainer:
    logs = RunDirectory(options.out).logs
    loggers: list[Logger] = []
    if "tensorboard" in logger_names(options):
        loggers.append(TensorBoardLogger(logs, name="tensorboard", version=""))
    return L.Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.nodes,
        strategy=options.strategy,
        precision=PRECISION[options.precision],  # type: ignore[arg-type]
        max_epochs=options.epochs,
        accumulate_grad_batches=options.grad_accum,
        gradient_clip_val=options.grad_clip or None,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        logger=[*loggers, *trackers],
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # EpochSampler distributes the images
        enable_progress_bar=False,  # EpochReport shows progress
        enable_model_summary=False,
        default_root_dir=options.out,
    )


def silence_lightning() -> None:
    """Silence Lightning, whose messages are for developers."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings(
        "ignore", message=".*(num_workers|isinstance\\(treespec|lr_scheduler.step|checkpoint director).*"
    )


@contextmanager
def explain_errors(out: Path, verb: str = "train") -> Iterator[None]:
    """Turn external causes of failure into one line that says how to resume."""
    resume = f"resume with: softfree {verb} --resume {out}"
    checkpoints = RunDirectory(out).checkpoints
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning has disabled it
        raise UserError(f"stopped by Ctrl-C; {resume}") from None
    except MisconfigurationException as error:
        raise UserError(f"{_first_line(error)}; see --accelerator, --devices and --strategy") from None
    except UnpicklingError:
        raise UserError(
            f"a checkpoint in {checkpoints} is damaged or contains more than weights, and was not opened; "
            f"delete it, then {resume}"
        ) from None
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}; free some space, then {resume}") from None
    except RuntimeError as error:
        text = str(error).lower()
        if "no space left" in text or "pytorchstreamwriter" in text:
            raise UserError(f"cannot write {out}: {_first_line(error)}; free some space, then {resume}") from None
        if "pytorchstreamreader" in text:
            raise UserError(f"a checkpoint in {checkpoints} is damaged; delete it, then {resume}") from None
        if is_out_of_memory(error):
            raise UserError(
                "training does not fit in memory; use a smaller --batch-size or --size, or --grad-checkpointing"
            ) from None
        raise


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
