"""The run directory: written once by training, loaded everywhere else.

::

    config.yaml         everything that was set, the classes, the preprocessing, the model's arguments, the versions
    model.safetensors   the weights
    operating.json      temperature and thresholds, chosen on validation
    predictions.csv     a row for each validation and test picture; row numbers of the table, no names
    metrics.json        metrics with intervals
    report.html         the same to look at
    logs/               CSV and TensorBoard
    checkpoints/        the state of training, for --resume
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from softfree.data.task import Task
from softfree.errors import UserError
from softfree.files import write_atomically

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import nn

    from softfree.data.preparation import Preparation
    from softfree.data.transforms import Preprocessing
    from softfree.options import Precision, StreamOptions

CONFIG, WEIGHTS, OPERATING = "config.yaml", "model.safetensors", "operating.json"


@dataclass(frozen=True)
class Operating:
    """What turns logits into calibrated probabilities and labels, chosen on validation.

    Attributes:
        temperature: the logits are divided by it.
        thresholds: probability from which a class counts as present, for each class that is scored; a multiclass
            picture is called its most probable class all the same.
    """

    temperature: float = 1.0
    thresholds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A trained classifier with all that belongs to it.

    Attributes:
        folder: the run directory.
        config: the contents of ``config.yaml``.
        operating: temperature and thresholds.
    """

    folder: Path
    config: dict[str, Any]
    operating: Operating = field(default_factory=Operating)

    @classmethod
    def load(cls, folder: str | Path) -> Run:
        """Open a run directory.

        Raises:
            UserError: when it is not one, or its training has not ended.
        """
        folder = Path(folder)
        config = read_config(folder)
        if not (folder / WEIGHTS).is_file():
            raise UserError(
                f"{folder} has no {WEIGHTS}: its training has not ended; go on with: softfree train --resume {folder}"
            )
        return cls(folder, config, read_operating(folder))

    @property
    def task(self) -> Task:
        """What is predicted."""
        try:
            return Task(self.config["task"]["kind"], tuple(self.config["task"]["classes"]))
        except (KeyError, TypeError):
            raise UserError(f"{self.folder / CONFIG} does not say its task; copy the run again") from None

    @cached_property
    def preprocessing(self) -> Preparation:
        """The steps from what a row names to the model's input."""
        from softfree.data.preparation import restore

        return restore(self.config["preprocessing"])

    @property
    def picture_steps(self) -> Preprocessing:
        """The steps of a run on pictures.

        Raises:
            UserError: a run on other samples.
        """
        from softfree.data.transforms import Preprocessing

        steps = self.preprocessing
        if not isinstance(steps, Preprocessing):
            raise UserError(f"{self.folder} was trained on samples of kind {steps.kind}; this needs a run on pictures")
        return steps

    @cached_property
    def model(self) -> nn.Module:
        """The model in evaluation mode, with its weights, on the CPU."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        model = build_model(self.config)
        path = self.folder / WEIGHTS
        try:
            model.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{path} does not hold the weights that config.yaml describes ({reason}); copy the run again"
            ) from None
        return model.eval()

    def predict(
        self,
        inputs: str | Path | np.ndarray | Sequence[str | Path | np.ndarray],
        *,
        frame: int | None = None,
        images: str | Path | None = None,
        batch: int = 16,
        workers: int = 0,
        precision: Precision = "32",
        progress: bool = False,
        stream: StreamOptions | None = None,
    ) -> pd.DataFrame:
        """Probabilities for files, folders, tables or arrays.

        Args:
            inputs: paths, or arrays (H, W) or (H, W, C) of uint8, uint16, or floats in [0, 1].
            frame: frame of multi-frame files, counted from 0; default: the first.
            images: folder that the paths of tables start from and must lie in; default: each table's folder.
            batch: pictures at once; only pictures of equal shape share a batch.
            workers: processes that read files.
            precision: arithmetic of the products, "32", "bf16" or "16".
            progress: show a progress bar.
            stream: when and where to stream what does not fit in memory; by itself, in main memory.

        Returns:
            A row for each input: ``path``, ``status`` (``ok`` or why not), ``reason``, ``p_<class>`` (calibrated),
            ``raw_<class>`` (before calibration) and ``predicted``.
        """
        from softfree.options import InferenceOptions
        from softfree.prediction import predict

        streaming = stream.streaming if stream else {}
        options = InferenceOptions(batch=batch, workers=workers, precision=precision, progress=progress, **streaming)
        return predict(self, inputs, options, frame=frame, images=images)

    def with_operating(self, operating: Operating) -> Run:
        """Store another temperature and other thresholds."""
        write_atomically(self.folder / OPERATING, json.dumps(operating.__dict__, indent=2))
        return replace(self, operating=operating)


def build_model(config: dict[str, Any]) -> nn.Module:
    """The model that a configuration describes, with fresh weights."""
    from softfree.models import create_model

    arguments = dict(config["model"])
    return create_model(arguments.pop("name"), **arguments)


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.yaml`` of a run directory; UserError when there is none or it is not ours."""
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(
            f"{folder} is not a run directory: it has no {CONFIG}; expected a folder made by softfree train"
        )
    try:
        config = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as YAML ({str(error).splitlines()[0]}); copy the run again") from None
    if not isinstance(config, dict) or not {"task", "preprocessing", "model", "options"} <= config.keys():
        raise UserError(f"{path} is not a softfree configuration: task, preprocessing, model or options are missing")
    return config


def read_operating(folder: Path) -> Operating:
    """Read ``operating.json``; its defaults when there is none."""
    path = folder / OPERATING
    if not path.is_file():
        return Operating()
    try:
        return Operating(**_read_json(path))
    except TypeError:
        raise UserError(f"{path} does not hold a temperature and thresholds; copy the run again") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); copy the run again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} does not hold a JSON object; copy the run again")
    return found


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write ``config.yaml``."""
    write_atomically(folder / CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def read_cost(folder: Path) -> dict[str, Any]:
    """What training cost (``logs/cost.json``); empty when it was not recorded."""
    path = folder / "logs" / "cost.json"
    return _read_json(path) if path.is_file() else {}
