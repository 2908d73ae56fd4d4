"""A tiny task: which of two symbols is more frequent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from softfree_lab.long_range.sequences import Sequences, joined
from softfree_lab.long_range.tasks import Recipe, TaskData
from softfree_lab.long_range.training import Settings
from softfree_lab.long_range.trials import Trial


def draw(number: int, seed: int) -> Sequences:
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=number)
    share = np.where(labels, 0.8, 0.2)
    return joined([rng.random(rng.integers(12, 20)) < chance for chance in share], labels)


@pytest.fixture
def data() -> TaskData:
    return TaskData(draw(64, 0), draw(32, 1), draw(32, 2), "made up", False)


@pytest.fixture
def settings() -> Settings:
    recipe = Recipe(batch_size=16, steps=8, warmup=2, lr=3e-3, patience=None, eval_every=4)
    return Settings("listops", "seqnorm", 0, recipe, "fp32", 8, 128, 64, 0, "made up")


@pytest.fixture
def longer(settings: Settings) -> Settings:
    return replace(settings, recipe=replace(settings.recipe, steps=48, eval_every=16), group_symbols=512)


def make_trial(
    seed: int, task: str = "listops", attention: str = "seqnorm", correct: int = 4, official: bool = True
) -> Trial:
    settings: dict[str, Any] = {
        "task": task,
        "attention": attention,
        "seed": seed,
        "precision": "bf16",
        "samples": 96,
        "source": "made up",
    }
    settings["recipe"] = {"steps": 50}
    progress: dict[str, Any] = {
        "step": 50,
        "best": 0.4,
        "best_step": 30,
        "cpu_seconds": 25.0,
        "seconds": 50.0,
        "peak_bytes": 2**20,
    }
    progress["curve"] = [[25, 2.0, 0.3], [50, 1.9, 0.4]]
    return Trial(settings, official, correct, 10, 1000, progress, "a machine")


@pytest.fixture
def trial() -> Callable[..., Trial]:
    """Makes finished trainings."""
    return make_trial
