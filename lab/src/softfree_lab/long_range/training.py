"""One training on a task, which continues from its checkpoint wherever it was stopped.

A resumed training gives the same weights as one without interruption: batches and dropout depend on seed and step
alone.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from softfree.core.environment import peak_memory
from softfree.core.precision import products_in
from softfree_lab.long_range.batches import batch_of_step, groups
from softfree_lab.long_range.dropout import begin_step
from softfree_lab.long_range.model import SequenceModel, options_for
from softfree_lab.long_range.sequences import Sequences
from softfree_lab.long_range.tasks import TASKS, Recipe, TaskData
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import is_whole, write_atomically

CHECKPOINT, PROGRESS = "training.pt", "progress.jsonl"
EVALUATED_SYMBOLS = 32_768  # per group without gradients


@dataclass(frozen=True)
class Settings:
    """What determines the result of a training.

    Attributes:
        task: A name of :data:`~softfree_lab.long_range.tasks.TASKS`.
        attention: A name of :data:`~softfree.attention.ATTENTIONS`.
        seed: Seed of weights, batches and dropout.
        recipe: Steps, batch size and learning rate.
        precision: "fp32" or "bf16" products.
        features: Landmarks, rows of maps or random features of methods that have them.
        group_symbols: Symbols, with padding, of a batch that pass forward and backward at a time; the gradient is
            that of the whole batch.
        samples: Number of training samples.
        data_seed: Seed of generated samples.
        source: What the samples are.
    """

    task: str
    attention: str
    seed: int
    recipe: Recipe
    precision: str
    features: int
    group_symbols: int
    samples: int
    data_seed: int
    source: str

    def to_dict(self) -> dict[str, Any]:
        """Return the settings for JSON."""
        return asdict(self)


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        step: Steps so far.
        best: Best validation accuracy; -1 before the first evaluation.
        best_step: Its step.
        waited: Evaluations since then.
        seconds: Wall-clock seconds of all processes so far, with evaluations.
        cpu_seconds: The same in CPU seconds.
        peak_bytes: Largest memory of a process.
        curve: Step, training loss and validation accuracy of each evaluation.
    """

    step: int = 0
    best: float = -1.0
    best_step: int = 0
    waited: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    curve: list[tuple[int, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.curve = [(step, loss, accuracy) for step, loss, accuracy in self.curve]  # JSON has lists


@dataclass(frozen=True)
class Result:
    """A finished training.

    Attributes:
        progress: Its last state.
        correct: Correct test samples, with the weights of the best validation accuracy.
        tested: Number of test samples.
        parameters: Number of weights.
    """

    progress: Progress
    correct: int
    tested: int
    parameters: int


class Training:
    """One training in a folder.

    Args:
        settings: Recipe, attention and seed.
        data: The samples.
        folder: Folder of the checkpoint and of the progress.
        checkpoint_seconds: Time between checkpoints.
        device: Where to train, "cpu" or "cuda".

    Raises:
        UserError: The folder has a training of other settings, or a damaged checkpoint.
    """

    def __init__(
        self, settings: Settings, data: TaskData, folder: Path, checkpoint_seconds: float = 300.0, device: str = "cpu"
    ) -> None:
        self.settings, self.data, self.folder = settings, data, folder
        self.checkpoint_seconds, self.device = checkpoint_seconds, torch.device(device)
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(settings.seed)
        self.model = build(settings).to(self.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.recipe.lr, fused=True)
        self.progress = Progress()
        self.best = _copied(self.model)
        self.loss, self.summed = 0.0, 0
        self._resume()

    def run(self, deadline: float = float("inf"), log: Callable[[str], None] = lambda _: None) -> Result | None:
        """Train until the end, or until the deadline (:func:`time.time`), for which a checkpoint is written.

        Returns:
            The result, or None if the deadline came first.
        """
        recipe, progress = self.settings.recipe, self.progress
        clock = _Clock(progress)
        saved = time.monotonic()
        while progress.step < recipe.steps and not self._exhausted():
            if time.time() > deadline:
                clock.add()
                self.save()
                return None
            self.step()
            if progress.step % recipe.eval_every == 0 or progress.step == recipe.steps:
                self.evaluate()
                clock.add()
                self.save()
                saved = time.monotonic()
                log(self.line())
            elif time.monotonic() - saved > self.checkpoint_seconds:
                clock.add()
                self.save()
                saved = time.monotonic()
                log(self.line())
        self.model.load_state_dict(self.best)
        correct = count_correct(self.model, self.data.test, self.settings.precision, self.device)
        clock.add()
        parameters = sum(weight.numel() for weight in self.model.parameters())
        return Result(progress, correct, len(self.data.test), parameters)

    def step(self) -> None:
        """Take one optimizer step."""
        settings, train = self.settings, self.data.train
        for group in self.optimizer.param_groups:
            group["lr"] = settings.recipe.lr * schedule(self.progress.step, settings.recipe)
        samples = batch_of_step(len(train), settings.recipe.batch_size, settings.seed, self.progress.step)
        self.model.train()
        begin_step(self.model, settings.seed, self.progress.step)
        self.optimizer.zero_grad(set_to_none=True)
        for number, part in enumerate(groups(train, samples, settings.group_symbols)):
            begin_group(self.model, first=number == 0)
            part = part.to(self.device)
            with products_in(settings.precision, self.device):
                logits = self.model(part.symbols, part.mask)
            loss = F.cross_entropy(logits.float(), part.labels, reduction="sum") / len(samples)
            loss.backward()
            self.loss += loss.item()
        if not torch.isfinite(torch.tensor(self.loss)):
            raise UserError(
                f"{settings.task}, {settings.attention}: the loss of step {self.progress.step} is not finite; try "
                "--precision fp32"
            )
        self.optimizer.step()
        self.summed += 1
        self.progress.step += 1

    def evaluate(self) -> None:
        """Compute the validation accuracy, and keep the weights if it is the best."""
        progress = self.progress
        accuracy = count_correct(self.model, self.data.val, self.settings.precision, self.device) / len(self.data.val)
        progress.curve.append((progress.step, self.loss / max(1, self.summed), accuracy))
        self.loss, self.summed = 0.0, 0
        progress.waited += 1
        if accuracy > progress.best:
            progress.best, progress.best_step, progress.waited = accuracy, progress.step, 0
            self.best = _copied(self.model)

    def line(self) -> str:
        """Describe the progress in one line."""
        settings, progress = self.settings, self.progress
        reached = f", validation accuracy {progress.curve[-1][2]:.3f}" if progress.curve else ""
        return f"{settings.task}, {settings.attention}, seed {settings.seed}: step {progress.step:,}{reached}"

    def save(self) -> None:
        """Write the checkpoint atomically, and append the progress to its log."""
        state = {
            "settings": json.dumps(self.settings.to_dict()),
            "progress": json.dumps(asdict(self.progress)),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "loss": (self.loss, self.summed),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.folder / CHECKPOINT, buffer.getvalue())
        now = {name: value for name, value in asdict(self.progress).items() if name != "curve"}
        last = self.progress.curve[-1] if self.progress.curve else None
        append_line(self.folder / PROGRESS, now | {"steps": self.settings.recipe.steps, "last": last})

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.is_file():
            return
        state = read_state(path)
        recorded, wanted = json.loads(state["settings"]), json.loads(json.dumps(self.settings.to_dict()))
        differing = [name for name in wanted if recorded.get(name) != wanted[name]]
        if differing:
            name = differing[0]
            raise UserError(
                f"{self.folder} has a training with {name} {recorded.get(name)!r}, but {wanted[name]!r} was requested: "
                "choose another --out, or delete it"
            )
        self.progress = Progress(**json.loads(state["progress"]))
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, (self.loss, self.summed) = state["best"], state["loss"]

    def _exhausted(self) -> bool:
        patience = self.settings.recipe.patience
        return patience is not None and self.progress.waited >= patience


def build(settings: Settings) -> SequenceModel:
    """Create the model of a training."""
    task = TASKS[settings.task]
    options = options_for(settings.attention, task.max_length, settings.features)
    return SequenceModel(
        task.symbols,
        task.max_length,
        task.classes,
        attention=settings.attention,
        attention_options=options,
        towers=task.towers,
    )


def schedule(step: int, recipe: Recipe) -> float:
    """Return the learning rate of a step, from 0, over its peak: linear warm-up, then linear decay to zero."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    return (recipe.steps - step) / max(1, recipe.steps - recipe.warmup)


def begin_group(model: SequenceModel, first: bool) -> None:
    """Tell the attentions that a group begins; those of one step share random features."""
    for block in model.blocks:
        block.attn.begin_batch(first)  # type: ignore[union-attr, operator]


@torch.no_grad()
def count_correct(model: nn.Module, data: Sequences, precision: str, device: torch.device | str = "cpu") -> int:
    """Count the samples whose most probable class is right, without dropout."""
    model.eval()
    correct = 0
    for group in groups(data, np.arange(len(data)), EVALUATED_SYMBOLS):
        group = group.to(device)
        with products_in(precision, device):
            logits = model(group.symbols, group.mask)
        correct += int((logits.argmax(1) == group.labels).sum())
    return correct


def read_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        UserError: It is damaged.
    """
    if is_whole(path):
        with contextlib.suppress(RuntimeError, UnpicklingError, EOFError, ValueError, KeyError):
            state = torch.load(path, weights_only=True, map_location="cpu")
            if isinstance(state, dict) and {"settings", "progress", "model", "optimizer", "best"} <= state.keys():
                return state
    raise UserError(f"{path} is damaged; delete it, and this training starts again")


def append_line(path: Path, values: dict[str, Any]) -> None:
    """Append one line of JSON, and make sure that it is on the disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values, separators=(",", ":")) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _copied(model: nn.Module) -> dict[str, Any]:
    return {name: value.clone() for name, value in model.state_dict().items()}


class _Clock:
    """Adds the time since the last call to the progress."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.wall, self.cpu = time.monotonic(), time.process_time()

    def add(self) -> None:
        wall, cpu = time.monotonic(), time.process_time()
        self.progress.seconds += wall - self.wall
        self.progress.cpu_seconds += cpu - self.cpu
        self.progress.peak_bytes = max(self.progress.peak_bytes, peak_memory())
        self.wall, self.cpu = wall, cpu
