"""Loading several runs for comparison, and naming them by their attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from softfree.core.options import ImageOptions, ModelOptions, OptimizerOptions
from softfree.inference.run import Run
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import refuse_numbers


def open_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Open runs of one task on images.

    Raises:
        UserError: A run that is named twice, does not classify images, or has another task than the first.
    """
    runs = [Run.load(folder) for folder in folders]
    if len({run.folder.resolve() for run in runs}) < len(runs):
        raise UserError("a run is named twice; name each run once, because runs of one attention are averaged")
    for run in runs:
        refuse_numbers(run.task, "a study")
        run.image_preprocessing  # noqa: B018 raises an error for other samples
        if run.task != runs[0].task:
            raise UserError(
                f"{run.folder} distinguishes {', '.join(run.task.classes)} ({run.task.kind}), {runs[0].folder}"
                f" {', '.join(runs[0].task.classes)} ({runs[0].task.kind}); expected runs of one task"
            )
    return runs


def attention_names(runs: Sequence[Run]) -> list[str]:
    """Name each run by its attention, followed by the settings, except the seed, in which runs of one attention differ.

    Runs with equal names are repetitions and may be averaged.
    """
    plain = [run.model_name.partition("_vit_")[0] for run in runs]
    settings = [_settings(run) for run in runs]
    names = []
    for attention, own in zip(plain, settings, strict=True):
        peers = [other for name, other in zip(plain, settings, strict=True) if name == attention]
        differing = [key for key in own if any(key not in peer or peer[key] != own[key] for peer in peers)]
        names.append(f"{attention} ({', '.join(f'{key}={own[key]}' for key in differing)})" if differing else attention)
    return names


def _settings(run: Run) -> dict[str, Any]:
    """Return the settings that decide the result of training, except the seed."""
    options = run.config["options"]
    names = [field.name for group in (ImageOptions, ModelOptions, OptimizerOptions) for field in fields(group)]
    settings: dict[str, Any] = {
        key: options[key] for key in names if key in options and key not in ("cache", "num_workers")
    }
    settings["model"] = run.model_name.partition("_vit_")[2]
    for group in ("model_options", "attention_options"):
        settings |= settings.pop(group, None) or {}
    return settings
