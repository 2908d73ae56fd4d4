"""The run directory: written once by training, loaded everywhere else.

::

    config.yaml         everything that was set, the classes, the preprocessing, the model's arguments, the versions
    model.safetensors   the weights
    calibration.json      temperature and thresholds, chosen on validation
    digests.json        SHA-256 of these three, so that a damaged or changed file is noticed
    split.csv           the split of each row; patients by hashed names
    baselines.safetensors  regressions on the size and on a small copy of the training samples
    predictions.csv     a row for each validation and test image; row numbers of the table, no names
    metrics.json        metrics with intervals
    report.html         the same to look at
    logs/               CSV and TensorBoard
    checkpoints/        the state of training, for --resume
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import yaml

from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import write_atomically
from softfree_runtime.core.task import Task, check_task
from softfree_runtime.core.validation import check_fields, mismatch, shown

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import nn

    from softfree.data.modalities.base import Preprocessing
    from softfree.data.modalities.image import ImagePreprocessing
    from softfree.data.split_file import RunSplit
    from softfree.training.options import Precision, StreamOptions

CONFIG, WEIGHTS, CALIBRATION = "config.yaml", "model.safetensors", "calibration.json"
DIGESTS, PREDICTED, SPLIT = "digests.json", "predictions.csv", "split.csv"
DIGESTED = (CONFIG, WEIGHTS, CALIBRATION, PREDICTED, SPLIT)


@dataclass(frozen=True)
class Calibration:
    """What turns logits into calibrated probabilities and labels, chosen on validation.

    Attributes:
        temperature: the logits are divided by it.
        thresholds: probability from which a class counts as present, for each class that is scored; a multiclass
            image is called its most probable class all the same.
    """

    temperature: float = 1.0
    thresholds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A trained classifier with all that belongs to it.

    Attributes:
        folder: the run directory.
        config: the contents of ``config.yaml``.
        calibration: temperature and thresholds.
    """

    folder: Path
    config: dict[str, Any]
    calibration: Calibration = field(default_factory=Calibration)

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
        check_config(folder / CONFIG, config)
        run = cls(folder, config)
        _notice_changes(folder)
        return replace(run, calibration=read_calibration(folder, run.task))

    @property
    def task(self) -> Task:
        """What is predicted."""
        return Task(self.config["task"]["kind"], tuple(self.config["task"]["classes"]))

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """The steps from what a row names to the model's input."""
        from softfree.data.modalities.base import preprocessing_from_config

        return preprocessing_from_config(self.config["preprocessing"])

    @property
    def image_preprocessing(self) -> ImagePreprocessing:
        """The steps of a run on images.

        Raises:
            UserError: a run on other samples.
        """
        from softfree.data.modalities.image import ImagePreprocessing

        preprocessing = self.preprocessing
        if not isinstance(preprocessing, ImagePreprocessing):
            raise UserError(
                f"{self.folder} was trained on samples of kind {preprocessing.kind}; this needs a run on images"
            )
        return preprocessing

    @cached_property
    def model(self) -> nn.Module:
        """The model in evaluation mode, with its weights, on the CPU."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.folder / WEIGHTS
        digest = _read_digests(self.folder).get(WEIGHTS)
        if digest is not None and _digest(path) != digest:
            raise UserError(f"{path} is not the file that training wrote (another SHA-256); copy the run again")
        try:
            model = build_model(self.config)
        except UserError as error:
            raise UserError(f"{self.folder / CONFIG}: model: {error}") from None
        except (TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError, LookupError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:150]
            raise UserError(f"{self.folder / CONFIG}: model cannot be made ({reason}); copy the run again") from None
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
        image_root: str | Path | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
        precision: Precision = "32",
        progress: bool = False,
        stream: StreamOptions | None = None,
    ) -> pd.DataFrame:
        """Probabilities for files, folders, tables or arrays.

        Args:
            inputs: paths, or arrays (H, W) or (H, W, C), which are read as a TIFF of the same numbers is.
            frame: frame of multi-frame files, counted from 0; default: the first.
            image_root: folder that the paths of tables start from and must lie in; default: each table's folder.
            batch_size: images at once; only images of equal shape share a batch.
            num_workers: processes that read files.
            precision: arithmetic of the products, "32", "bf16" or "16".
            progress: show a progress bar.
            stream: when and where to stream what does not fit in memory; by itself, in main memory.

        Returns:
            A row for each input: ``path``, ``status`` (``ok`` or why not), ``reason``, ``p_<class>`` (calibrated),
            ``raw_<class>`` (before calibration) and ``predicted``.
        """
        from softfree.inference.options import InferenceOptions
        from softfree.inference.predict import predict

        streaming = stream.streaming if stream else {}
        options = InferenceOptions(
            batch_size=batch_size, num_workers=num_workers, precision=precision, progress=progress, **streaming
        )
        return predict(self, inputs, options, frame=frame, image_root=image_root)

    def with_calibration(self, calibration: Calibration) -> Run:
        """Store another temperature and other thresholds."""
        write_atomically(self.folder / CALIBRATION, json.dumps(calibration.__dict__, indent=2))
        if (self.folder / DIGESTS).is_file():
            self.write_digests()
        return replace(self, calibration=calibration)

    def write_digests(self) -> None:
        """Record what the files are that decide a prediction; the last step of a training."""
        found = {name: _digest(self.folder / name) for name in DIGESTED if (self.folder / name).is_file()}
        write_atomically(self.folder / DIGESTS, json.dumps(found, indent=2))

    def weights_digest(self) -> str:
        """SHA-256 of the weights."""
        return _digest(self.folder / WEIGHTS)

    def is_unchanged(self, name: str) -> bool:
        """Whether a file is the one that was recorded, or nothing was."""
        digest = _read_digests(self.folder).get(name)
        return digest is None or _digest(self.folder / name) == digest


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
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); copy the run again") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as YAML ({str(error).splitlines()[0]}); copy the run again") from None
    if not isinstance(config, dict) or not {"task", "preprocessing", "model", "options"} <= config.keys():
        raise UserError(f"{path} is not a softfree configuration: task, preprocessing, model or options are missing")
    return config


def kept_split(folder: Path | None) -> RunSplit | None:
    """The split that a run was trained with, for ``--split-from``; None for no run."""
    if folder is None:
        return None
    from softfree.data.split_file import read_split

    return read_split(folder, read_config(folder)["table"]["sha256"])


def drawn_split(folder: Path) -> RunSplit | None:
    """The split that was drawn for a run's own table; None where the table brought it."""
    return kept_split(folder) if read_config(folder).get("table", {}).get("split") else None


def trained_rows(folder: Path, keys: Sequence[str]) -> int:
    """Count the rows that a run was trained on, by the names of their patients; 0 where it does not say."""
    split = kept_split(folder) if (folder / SPLIT).is_file() else None
    return 0 if split is None else split.splits_of(keys).count("train")


def check_config(path: Path, config: dict[str, Any]) -> None:
    """Refuse a configuration that does not say what a run must know, naming the field; fill in options it lacks.

    Raises:
        UserError: an unknown word, another type, a missing field.
    """
    from softfree.data.modalities.base import KINDS, preprocessing_class
    from softfree.training.options import TrainOptions

    check_task(path, config["task"])
    preprocessing = config["preprocessing"]
    kind = preprocessing.get("kind", "image") if isinstance(preprocessing, dict) else None
    if kind not in KINDS:
        raise UserError(f"{path}: preprocessing.kind is {shown(kind)}; expected {' or '.join(KINDS)}")
    check_fields(
        path, "preprocessing", {k: v for k, v in preprocessing.items() if k != "kind"}, preprocessing_class(kind)
    )
    model = config["model"]
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        raise UserError(f"{path}: model.name is missing; expected a name of softfree models")
    classes = len(config["task"]["classes"])
    if model.get("num_classes") != classes:
        raise UserError(f"{path}: model.num_classes is {shown(model.get('num_classes'))} for {classes} classes")
    _check_model(path, model)
    for name, value in restore_arguments(path, config).items():
        if name in model and name in ("in_chans", "in_features") and model[name] != value:
            raise UserError(f"{path}: model.{name} is {shown(model[name])}; the preprocessing gives {value}")
    stated = check_fields(path, "options", config["options"], TrainOptions, whole=False)
    usual = {field.name: field.default for field in fields(TrainOptions) if field.default is not MISSING}
    made = {field.name: field.default_factory() for field in fields(TrainOptions) if callable(field.default_factory)}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in (usual | made).items()}
    config["options"] = plain | {"table": None} | config["options"] | stated


def _check_model(path: Path, model: dict[str, Any]) -> None:
    """Refuse arguments of another type than the model takes; those that it has not are its own to refuse."""
    from timm.models import is_model, model_entrypoint

    import softfree.models  # noqa: F401  registers the names

    if not is_model(model["name"]) or not hasattr(model_entrypoint(model["name"]), "model_class"):
        return
    hints = get_type_hints(model_entrypoint(model["name"]).model_class.__init__)  # type: ignore[attr-defined]
    for name, value in model.items():
        if name in hints and (expected := mismatch(value, hints[name])):
            raise UserError(f"{path}: model.{name} is {shown(value)}; expected {expected}")


def restore_arguments(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return what the preprocessing tells a model of its samples; UserError for impossible values."""
    from softfree.data.modalities.base import preprocessing_from_config
    from softfree_runtime.metadata import ABOVE_ZERO

    for name, value in config["preprocessing"].items():
        sizes = value if isinstance(value, list) else [value]
        if name in ABOVE_ZERO and any(one is not None and one <= 0 for one in sizes):
            raise UserError(f"{path}: preprocessing.{name} is {shown(value)}; expected numbers above 0")
    try:
        return preprocessing_from_config(config["preprocessing"]).model_arguments()
    except UserError as error:
        raise UserError(f"{path}: preprocessing: {error}") from None
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{path}: preprocessing cannot be used ({str(error)[:150]}); copy the run again") from None


def read_calibration(folder: Path, task: Task | None = None) -> Calibration:
    """Read ``calibration.json``; its defaults when there is none.

    Args:
        folder: the run directory.
        task: whose classes the thresholds are of, where it is known.

    Raises:
        UserError: no temperature above 0, or a threshold that is no probability or of no class.
    """
    path = folder / CALIBRATION
    if not path.is_file():
        return Calibration()
    found = check_fields(path, "calibration", _read_json(path), Calibration)
    temperature, thresholds = found.get("temperature", 1.0), found.get("thresholds", {})
    if temperature <= 0:
        raise UserError(f"{path}: temperature is {temperature}; expected a number above 0; copy the run again")
    for name, threshold in thresholds.items():
        if not 0 <= threshold <= 1:
            raise UserError(f"{path}: the threshold of {shown(name)} is {threshold}; expected a probability, 0 to 1")
        if task is not None and name not in task.classes:
            raise UserError(f"{path}: there is a threshold of {shown(name)}; expected one of {', '.join(task.classes)}")
    return Calibration(float(temperature), {name: float(value) for name, value in thresholds.items()})


def _read_digests(folder: Path) -> dict[str, Any]:
    path = folder / DIGESTS
    return _read_json(path) if path.is_file() else {}


def _notice_changes(folder: Path) -> None:
    """Say what was edited since training; the results are those of the edited file."""
    digests = _read_digests(folder)
    for name in (CONFIG, CALIBRATION):
        if name in digests and (not (folder / name).is_file() or _digest(folder / name) != digests[name]):
            print(
                f"softfree: {folder / name} was changed after training; what follows goes by the change",
                file=sys.stderr,
            )


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); copy the run again") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); copy the run again") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({str(error)[:150]}); copy the run again") from None
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
