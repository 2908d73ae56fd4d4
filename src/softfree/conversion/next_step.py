"""The command that continues training from converted weights."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml

from softfree.conversion.options import ConvertOptions
from softfree.conversion.source import Source
from softfree.core.options import ModelOptions, TableOptions
from softfree.data.labels import LABEL_OPTIONS
from softfree.data.table import Table
from softfree_runtime.sources.inputs import TABLES

# A tenth to a third of the learning rate from scratch: the weights are already close to a good solution.
LEARNING_RATE = 3e-4
# Model arguments that are options of softfree train.
OPTIONS = {"stem": "stem", "pool": "pool", "layer_scale": "layer_scale", "mlp_chunk": "mlp_chunk"}
HANDLED = {"name", "num_classes", "img_size", "in_chans", "drop_path_rate", "attention_options", *OPTIONS}


def next_command(origin: Source, arguments: dict[str, Any], options: ConvertOptions, table: Table | None = None) -> str:
    """Build the command, without options at their defaults except those that determine the input.

    Args:
        origin: The softmax model.
        arguments: Of the converted one.
        options: Of the conversion.
        table: The labeled table, if there is one.
    """
    preprocessing, defaults = origin.preprocessing, ModelOptions()
    flags: dict[str, Any] = {
        "weights": options.out,
        "model": arguments["name"],
        "attention_options": arguments["attention_options"],
        "preset": preprocessing.preset,
        "size": preprocessing.size,
        "resize_mode": preprocessing.resize_mode,
        "channels": preprocessing.channels,
        "stem": arguments.get("stem", "patch"),
        "pool": arguments.get("pool", "avg"),
    }
    for argument, option in OPTIONS.items():
        if option not in flags and arguments.get(argument) != getattr(defaults, option):
            flags[option] = arguments.get(argument)
    if model_options := {name: value for name, value in arguments.items() if name not in HANDLED}:
        flags["model_options"] = model_options
    flags |= _table_flags(origin, table)
    words = ["softfree", "train", _table_path(origin, options)]
    for name, value in (flags | {"lr": LEARNING_RATE, "out": "run_seqnorm"}).items():
        words += [f"--{name.replace('_', '-')}", _as_text(value)]
    return shlex.join(words)


def _table_path(origin: Source, options: ConvertOptions) -> str:
    if len(options.images) == 1 and Path(options.images[0]).suffix.lower() in TABLES:
        return options.images[0]
    return "TABLE" if origin.run is None else str(origin.run.config["options"]["table"])


def _table_flags(origin: Source, table: Table | None) -> dict[str, Any]:
    """Return the options that define what is predicted, if they are not at their defaults, and the run's split.

    Another split would test the model on images that it was trained on.
    """
    if origin.run is None:
        return {}
    defaults, options = TableOptions(), origin.run.config["options"]
    names = (*LABEL_OPTIONS, "image_root", "seed")
    flags = {name: options[name] for name in names if options.get(name) != getattr(defaults, name)}
    has_own_split = table is not None and table.split_made is None
    is_drawn = origin.run.config.get("table", {}).get("split") is not None
    return flags | ({"split_from": origin.run.folder} if is_drawn and not has_own_split else {})


def _as_text(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
    return str(value)
