"""Lightning callbacks: early stopping, cost, weight averaging, progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
from lightning.pytorch.callbacks import Callback, WeightAveraging
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column
from torch import Tensor

from softfree.core.environment import peak_memory
from softfree.core.progress import console
from softfree.inference.run_directory import RunDirectory

_TIMED_STEPS = 10
"""Steps after which the duration of training is estimated."""


def epoch_score(metrics: Mapping[str, Tensor]) -> float:
    """Return the number by which epochs are compared, higher if better.

    It is the AUROC, the C-index, minus the absolute error, or of several targets their mean score.
    """
    if "val_mae" in metrics:
        return -float(metrics["val_mae"])
    return float(
        next((metrics[name] for name in ("val_score", "val_c_index", "val_auroc") if name in metrics), math.nan)
    )


class Patience(Callback):
    """Keep the epoch with the best validation AUROC, and stop after ``epochs`` epochs without a better one.

    A regression has no AUROC: the best epoch is that of the least mean absolute error; of survival, of the best
    C-index. That of several targets has the highest mean of their scores, each from 0 for guessing to 1 for no error.

    Its state is part of every checkpoint and holds no path, so that a run that was killed or moved resumes as if
    nothing had happened. Epochs without an AUROC are ignored.

    Args:
        path: Checkpoint file of the best epoch.
        epochs: Number of epochs to wait.
    """

    def __init__(self, path: Path, epochs: int) -> None:
        self.path, self.epochs = path, epochs
        self.best, self.waited, self.stopped = -math.inf, 0, False
        self.warned = False

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare the epoch with the best so far, before its checkpoint is written."""
        value = epoch_score(trainer.callback_metrics)
        if math.isnan(value):
            self._warn_without_auroc(trainer)
            return
        if value > self.best:
            self.best, self.waited = value, 0
            trainer.save_checkpoint(self.path)
        else:
            self.waited += 1
        if self.waited >= self.epochs:
            self.stopped = trainer.should_stop = True

    def _warn_without_auroc(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero and not self.warned:
            console.print(
                "the validation score is undefined without samples of both classes: --patience has no effect,"
                " and the last epoch is kept",
                highlight=False,
            )
        self.warned = True

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a resumed run."""
        return {"best": self.best, "waited": self.waited, "stopped": self.stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self.best, self.waited, self.stopped = (state_dict[name] for name in ("best", "waited", "stopped"))


class History(Callback):
    """Write the metrics of each epoch before its checkpoint, so that a run that was killed resumes without a gap.

    Lightning's loggers write them after it.

    Args:
        directory: Of the run.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the epoch; one without a checkpoint is trained again, and replaces its first attempt."""
        if not trainer.is_global_zero:
            return
        epoch = trainer.current_epoch
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        rows = [pd.DataFrame([{"epoch": epoch, "step": trainer.global_step} | metrics])]
        if (earlier := self.directory.read_history()) is not None:
            rows.insert(0, earlier[earlier["epoch"] < epoch])
        self.directory.write_history(pd.concat(rows))


class ResourceUsage(Callback):
    """Time and memory of a training run; the state in every checkpoint covers all sessions so far."""

    def __init__(self) -> None:
        self.previous = {"seconds": 0.0, "cpu_seconds": 0.0, "peak_bytes": 0.0}
        self.start = time.monotonic(), time.process_time()

    def state_dict(self) -> dict[str, float]:
        """Return the usage so far."""
        return {
            "seconds": self.previous["seconds"] + time.monotonic() - self.start[0],
            # The more reliable number on a shared machine; worker processes are not included.
            "cpu_seconds": self.previous["cpu_seconds"] + time.process_time() - self.start[1],
            "peak_bytes": max(self.previous["peak_bytes"], peak_memory()),
        }

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Restore the state."""
        self.previous = dict(state_dict)


class WarmedAverage(WeightAveraging):
    """Exponential moving average of the weights whose decay rises as (1 + n) / (10 + n) up to ``decay``.

    With a constant decay of 0.999, the random initialization still makes up 80 % of the average after 220 steps (timm
    and TensorFlow warm up for the same reason). Buffers are not averaged: Performer redraws its directions.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False, avg_fn=warmed_average(decay))

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Average after every step."""
        return step_idx is not None


def warmed_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Return the update of one weight, from average, current value and number of averaged steps."""

    def update(average: Tensor, current: Tensor, steps: Tensor | int) -> Tensor:
        current_decay = min(decay, (1 + int(steps)) / (10 + int(steps)))
        return current_decay * average + (1 - current_decay) * current

    return update


class EpochReport(Callback):
    """Show progress: one updating line on a terminal, one line per epoch elsewhere.

    Args:
        work: Relative work of an epoch, counted from 0.
    """

    def __init__(self, work: Callable[[int], float] = lambda _: 1.0) -> None:
        self.work = work
        self.bar: Progress | None = None
        self.start, self.first_epoch, self.steps = 0.0, 0, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock and the bar."""
        self.start, self.first_epoch = time.monotonic(), trainer.current_epoch
        if trainer.is_global_zero and console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}", table_column=Column(no_wrap=True)),
                BarColumn(6),
                TextColumn("{task.fields[status]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
                console=console, transient=True,
            )  # fmt: skip
            self.bar.start()
            self.bar.add_task(_epoch(trainer), total=int(trainer.num_training_batches), status="")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any, **__: Any) -> None:
        """Advance the bar; after the first steps, estimate the total time."""
        if self.bar is not None:
            self.bar.advance(self.bar.task_ids[0])
        steps = int(trainer.num_training_batches)
        if trainer.is_global_zero and trainer.current_epoch == self.first_epoch:
            self.steps += 1
            if self.steps == min(steps, _TIMED_STEPS):
                epochs = int(trainer.max_epochs or 0) - self.first_epoch
                work = self._work(self.first_epoch, trainer) / self.work(self.first_epoch)
                seconds = (time.monotonic() - self.start) / self.steps * steps * work
                console.print(f"expected {duration(seconds)} for {epochs} epochs, without validation", highlight=False)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the metrics of the epoch."""
        if not trainer.is_global_zero:
            return
        status = ", ".join([*_metrics(trainer), self._time_left(trainer)])
        if self.bar is None:
            print(f"{_epoch(trainer)}: {status}", file=console.file, flush=True)
        else:
            description = _epoch(trainer, min(trainer.current_epoch + 2, int(trainer.max_epochs or 0)))
            self.bar.reset(self.bar.task_ids[0], description=description, status=status)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the bar."""
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Remove the bar."""
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _time_left(self, trainer: L.Trainer) -> str:
        remaining = self._work(trainer.current_epoch + 1, trainer)
        done = self._work(self.first_epoch, trainer) - remaining
        return f"{duration((time.monotonic() - self.start) / done * remaining)} left"

    def _work(self, epoch: int, trainer: L.Trainer) -> float:
        """Total work from an epoch on."""
        return sum(self.work(number) for number in range(epoch, int(trainer.max_epochs or 0)))


def duration(seconds: float) -> str:
    """Format a duration, such as ``45 s``, ``12 min`` or ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _epoch(trainer: L.Trainer, number: int | None = None) -> str:
    return f"epoch {trainer.current_epoch + 1 if number is None else number}/{trainer.max_epochs}"


def _metrics(trainer: L.Trainer) -> list[str]:
    """Return the logged metrics, such as ``loss 0.412``, ``validation 0.398``, ``AUROC 0.871``."""
    names = {"train_loss": "loss", "val_loss": "validation", "val_auroc": "AUROC", "val_mae": "error"}
    names |= {"val_score": "mean score"}
    values = trainer.callback_metrics
    return [f"{title} {float(values[name]):.3f}" for name, title in names.items() if name in values]
