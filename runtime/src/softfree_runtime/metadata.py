"""Metadata of an exported file: strings by name, JSON or plain text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from softfree_runtime.core.conformal import ConformalSets, check_sets
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.outputs import Postprocessing, target_columns
from softfree_runtime.core.scale import Scale, check_scale
from softfree_runtime.core.survival import Survival, check_survival
from softfree_runtime.core.targets import Targets, check_tasks
from softfree_runtime.core.task import Task
from softfree_runtime.core.validation import check_fields, shown
from softfree_runtime.preprocessing.modalities import (
    IMAGE,
    KINDS,
    MODALITIES,
    Modality,
    Preprocessing,
    preprocessing_from_config,
)

FORMAT = "1"
FIX = "export the run again"
# Values in JSON, and values in plain text with their defaults.
# Missing in files of earlier versions.
_LATER = ("cuts", "loss", "phantoms", "scale", "sets", "survival", "targets", "unusual_rate")
_IN_JSON = (
    *("task", "classes", "preprocessing", "temperature", "thresholds", "size", "versions", "metrics"),
    *_LATER,
)
_IN_TEXT = {"quantized": "", "precision": "fp32", "weights": ""}
ABOVE_ZERO = ("size", "channels", "shape", "spacing", "mpp", "side", "max_side", "in_features", "std")


@dataclass(frozen=True)
class Metadata:
    """Everything that turns a sample into a graph's input, and logits into a row.

    Attributes:
        task: The task, with class names in the order of the logits.
        preprocessing: Turns a sample into the graph's input.
        temperature: Divisor of the logits.
        thresholds: Minimum probability at which a class counts as present.
        size: Size that the graph takes: height and width, or slices, rows and columns; None if any.
        card: The model card, text for people.
        versions: Versions of the software that trained and exported.
        metrics: Metrics on the test split: name to value, low, high, n.
        quantized: ``static`` or ``weights`` for integers, else empty.
        precision: ``fp32`` or ``fp16``, of weights that are not integers.
        weights: SHA-256 of the weights that the file was exported from; empty in files of earlier versions.
        loss: Loss of AUROC and shift of probabilities on the test split due to lower precision; empty for float32.
        sets: Minimum probabilities of the classes in conformal sets; None in files of earlier versions.
        scale: Of a regression: from outputs to numbers; else None.
        survival: Of survival: the horizons, and what turns outputs into survival; else None.
        unusual_rate: Share of new samples like those of training whose distance is above 1; None if the graph gives no
            distance.
        targets: Of a model of several targets, what turns the outputs of each into columns; empty for one task.
        phantoms: Logits of the phantoms, see :mod:`softfree_runtime.phantoms`; empty if they were not recorded.
    """

    task: Task
    preprocessing: Preprocessing
    temperature: float = 1.0
    thresholds: dict[str, float] = field(default_factory=dict)
    size: tuple[int, ...] | None = None
    card: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    quantized: Literal["", "static", "weights"] = ""
    precision: Literal["fp32", "fp16"] = "fp32"
    weights: str = ""
    loss: dict[str, Any] = field(default_factory=dict)
    phantoms: dict[str, Any] = field(default_factory=dict)
    sets: ConformalSets | None = None
    scale: Scale | None = None
    survival: Survival | None = None
    unusual_rate: float | None = None
    targets: dict[str, Postprocessing] = field(default_factory=dict)

    def columns(self, logits: np.ndarray) -> dict[str, object]:
        """Return the columns of a sample with logits ``(K,)``; of several targets as ``<target>.<column>``."""
        if self.targets:
            return target_columns(logits, self.targets)
        own = Postprocessing(self.task, self.temperature, self.thresholds, self.sets, self.scale, self.survival)
        return own.columns(logits)

    @property
    def modality(self) -> Modality:
        """The kind of sample that the file takes."""
        return MODALITIES[self.preprocessing.kind]

    @property
    def sample_shape(self) -> tuple[int | None, ...]:
        """Shape of a prepared sample; None for an axis of any length."""
        preprocessing: Any = self.preprocessing
        if self.modality.sequence:
            return (None, preprocessing.row_width)
        sides: tuple[int | None, ...] = (None, None) if self.size is None else self.size
        return (preprocessing.channels, *sides)

    def to_strings(self) -> dict[str, str]:
        """Return the metadata as strings, by name."""
        values = {
            "task": self.task.kind,
            "classes": list(self.task.classes),
            "cuts": list(self.task.cuts),
            "preprocessing": {"kind": self.preprocessing.kind} | self.preprocessing.to_dict(),
            "temperature": self.temperature,
            "thresholds": self.thresholds,
            "size": self.size,
            "versions": self.versions,
            "metrics": self.metrics,
            "loss": self.loss,
            "phantoms": self.phantoms,
            "sets": None if self.sets is None else asdict(self.sets),
            "scale": None if self.scale is None else asdict(self.scale),
            "survival": None if self.survival is None else asdict(self.survival),
            "unusual_rate": self.unusual_rate,
            "targets": [{"name": name} | _postprocessing_to_dict(answers) for name, answers in self.targets.items()],
        }
        text = {"softfree_format": FORMAT, "model_card": self.card, "quantized": self.quantized}
        text |= {"precision": self.precision, "weights": self.weights}
        return text | {name: json.dumps(value) for name, value in values.items()}

    @classmethod
    def from_strings(cls, texts: Mapping[str, str], path: object) -> Metadata:
        """Read the result of :meth:`to_strings`.

        Raises:
            UserError: Not a file of softfree, of a later format, or damaged; names ``path`` and the field.
        """
        if "softfree_format" not in texts:
            raise UserError(f"{path} was not made by softfree export: its metadata are missing; export the run again")
        if texts["softfree_format"] != FORMAT:
            got = shown(texts["softfree_format"])
            raise UserError(f"{path} has format {got}, expected {FORMAT}; update softfree or export again")
        path = Path(str(path))
        values = {name: _parsed(texts, name, path) for name in _IN_JSON if name in texts or name not in _LATER}
        described = {name: values.pop(name) for name in ("classes", "cuts", "targets") if name in values}
        task = check_tasks(path, described | {"kind": values.pop("task")})
        targets = _targets(path, task, described.get("targets", []))
        preprocessing = _preprocessing(path, values.pop("preprocessing"))
        sets = check_sets(path, values.pop("sets", None), task, FIX)
        scale = check_scale(path, values.pop("scale", None), FIX)
        if not targets and task.numeric and scale is None:
            raise UserError(f"{path}: scale is missing from its metadata, which a regression needs; {FIX}")
        survival = check_survival(path, values.pop("survival", None), task, FIX)
        values |= {name: texts.get(name, default) for name, default in _IN_TEXT.items()}
        check_fields(path, "metadata", values, cls, whole=False, fix=FIX)
        values["size"] = None if values["size"] is None else tuple(values["size"])
        read = {"sets": sets, "scale": scale, "survival": survival, "targets": targets} | values
        return cls(task, preprocessing, card=texts.get("model_card", ""), **read)._checked(path)

    def _checked(self, path: Path) -> Metadata:
        """Return itself after checking the range of all numbers."""
        own = Postprocessing(self.task, self.temperature, self.thresholds)
        for answers in self.targets.values() or (own,):
            _check_calibration(path, answers)
        axes = self.modality.axes
        if self.size is not None and (len(self.size) != axes or min(self.size) < 1):
            what = "nothing" if axes == 0 else f"{axes} sides above 0, or nothing"
            raise UserError(f"{path}: size is {list(self.size)}; expected {what}; {FIX}")
        return self


def _check_calibration(path: Path, answers: Postprocessing) -> None:
    if answers.temperature <= 0:
        raise UserError(f"{path}: temperature is {answers.temperature}; expected a number above 0; {FIX}")
    for name, threshold in answers.thresholds.items():
        if name not in answers.task.classes:
            known = ", ".join(answers.task.classes)
            raise UserError(f"{path}: thresholds has {shown(name)}; expected some of {known[:100]}; {FIX}")
        if not 0 <= threshold <= 1:
            raise UserError(f"{path}: a threshold is {threshold}; expected a probability, 0 to 1; {FIX}")


def _postprocessing_to_dict(answers: Postprocessing) -> dict[str, Any]:
    """Return what :func:`_targets` reads."""
    return {
        "kind": answers.task.kind,
        "classes": list(answers.task.classes),
        "cuts": list(answers.task.cuts),
        "temperature": answers.temperature,
        "thresholds": answers.thresholds,
        "sets": None if answers.sets is None else asdict(answers.sets),
        "scale": None if answers.scale is None else asdict(answers.scale),
        "survival": None if answers.survival is None else asdict(answers.survival),
    }


def _targets(path: Path, task: Task, content: list[dict[str, Any]]) -> dict[str, Postprocessing]:
    """Read how the outputs of each of several targets become columns; empty for one task."""
    targets: dict[str, Postprocessing] = {}
    for (name, part), entry in zip(task.parts, content, strict=True) if isinstance(task, Targets) else ():
        scale = check_scale(path, entry.get("scale"), FIX)
        if part.numeric and scale is None:
            raise UserError(f"{path}: the scale of target {name!r} is missing from its metadata; {FIX}")
        sets = check_sets(path, entry.get("sets"), part, FIX)
        try:
            survival = check_survival(path, entry.get("survival"), part, FIX)
        except UserError as error:
            raise UserError(f"target {name!r}: {error}") from None
        numbers = {key: entry.get(key) for key in ("temperature", "thresholds")}
        checked = check_fields(path, f"target {name}", numbers, Postprocessing, whole=False, fix=FIX)
        targets[name] = Postprocessing(part, sets=sets, scale=scale, survival=survival, **checked)
    return targets


def _parsed(texts: Mapping[str, str], name: str, path: Path) -> Any:
    """Parse a value in JSON."""
    if name not in texts:
        raise UserError(f"{path}: {name} is missing from its metadata; {FIX}")
    try:
        return json.loads(texts[name])
    except (ValueError, RecursionError):
        raise UserError(f"{path}: {name} is {shown(texts[name])}, which is not JSON; {FIX}") from None


def _preprocessing(path: Path, config: Any) -> Preprocessing:
    """Create the preprocessing after checking the type and range of each value."""
    fields = dict(config) if isinstance(config, dict) else {"kind": config}
    kind = fields.pop("kind", IMAGE)
    if kind not in KINDS:
        raise UserError(f"{path}: preprocessing.kind is {shown(kind)}; expected {' or '.join(KINDS)}; {FIX}")
    check_fields(path, "preprocessing", fields, MODALITIES[kind].preprocessing_class(), fix=FIX)
    for name, value in fields.items():
        numbers = value if isinstance(value, list) else [value]
        if name in ABOVE_ZERO and any(number is not None and number <= 0 for number in numbers):
            raise UserError(f"{path}: preprocessing.{name} is {shown(value)}; expected numbers above 0; {FIX}")
        if name in ("mean", "std") and value is not None and len(value) != fields.get("channels"):
            raise UserError(f"{path}: preprocessing.{name} is {shown(value)}; expected one for each channel; {FIX}")
    try:
        return preprocessing_from_config({"kind": kind} | fields)
    except (KeyError, TypeError, ValueError, ArithmeticError, UserError) as error:
        raise UserError(f"{path}: preprocessing cannot be used ({str(error)[:100]}); {FIX}") from None
