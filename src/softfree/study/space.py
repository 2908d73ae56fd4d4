"""The options that a search varies: lists of values and ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from softfree.core.options import TrainOptions
from softfree.data.modalities.registry import modality_of
from softfree_runtime.core.errors import UserError

if TYPE_CHECKING:
    from optuna.trial import Trial

LEARNING_RATES = {"low": 5e-5, "high": 5e-3}
WIDE = 10.0  # a range whose ends differ by this factor is searched by factors


def default_space(options: TrainOptions) -> dict[str, Any]:
    """Return what is searched by default, which depends on the modality: learning rate, size, pooling, augmentation."""
    space: dict[str, Any] = {"lr": LEARNING_RATES}
    name = modality_of(options).name
    if name == "image" and options.resize_mode != "native":
        space["size"] = [max(16, options.size // 2), options.size]
    if name in ("image", "volume"):
        space["pool"] = ["avg", "topk", "mean_topk"]
    return space | {"augment": [True, False]}


def check_space(space: Mapping[str, Any]) -> None:
    """Refuse what is neither a list of plain values nor a range.

    Raises:
        UserError: Names the option.
    """
    for name, values in space.items():
        if isinstance(values, list):
            if not values or not all(value is None or isinstance(value, bool | int | float | str) for value in values):
                raise UserError(f"--space: {name} is {values}: expected a list of numbers, words or true and false")
        elif not isinstance(values, dict) or not {"low", "high"} <= values.keys() <= {"low", "high", "log"}:
            raise UserError(f"--space: {name} is {values}: expected a list, or a range such as {{low: 0.1, high: 1}}")
        elif not (_is_number(values["low"]) and _is_number(values["high"]) and values["low"] < values["high"]):
            raise UserError(f"--space: {name} is {values}: expected numbers, low below high")
        elif not isinstance(values.get("log", False), bool):
            raise UserError(f"--space: {name} is {values}: expected log: true or false")
        elif values.get("log") and values["low"] <= 0:
            raise UserError(f"--space: {name} is {values}: expected low above 0, which a search by factors (log) needs")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def ends(values: Any) -> list[Any]:
    """Return all values of a list, and both ends of a range."""
    return values if isinstance(values, list) else [values["low"], values["high"]]


def suggest(trial: Trial, space: Mapping[str, Any]) -> dict[str, Any]:
    """Let a trial choose a value for each option."""
    chosen: dict[str, Any] = {}
    for name, values in space.items():
        if isinstance(values, list):
            chosen[name] = trial.suggest_categorical(name, values)
            continue
        low, high = values["low"], values["high"]
        log = bool(values.get("log", low > 0 and high / low >= WIDE))
        if isinstance(low, int) and isinstance(high, int):
            chosen[name] = trial.suggest_int(name, low, high, log=log)
        else:
            chosen[name] = trial.suggest_float(name, low, high, log=log)
    return chosen


def defaults_within(space: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of softfree train where the space has them, for the first trial."""
    inside = {}
    for field in fields(TrainOptions):
        values = space.get(field.name)
        if values is None or field.default is MISSING:
            continue
        is_inside = (
            field.default in values
            if isinstance(values, list)
            else _is_number(field.default) and (values["low"] <= field.default <= values["high"])
        )
        if is_inside:
            inside[field.name] = field.default
    return inside
