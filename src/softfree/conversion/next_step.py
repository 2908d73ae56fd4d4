"""The training that goes on from converted weights, as a command."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml

from softfree.conversion.options import ConvertOptions
from softfree.conversion.source import Source
from softfree.training.options import ModelOptions, TableOptions
from softfree_runtime.sources.inputs import TABLES

# A tenth to a third of what trains from scratch: the weights are near where they should be.
RATE = 3e-4
# Arguments of a model that softfree train has options for, by the names of these.
OPTIONS = {"stem": "stem", "pool": "pool", "layer_scale": "layer_scale", "mlp_chunk": "mlp_chunk"}
TAKEN_OVER = {"name", "num_classes", "img_size", "in_chans", "drop_path_rate", "attention_options", *OPTIONS}


def next_command(origin: Source, arguments: dict[str, Any], options: ConvertOptions) -> str:
    """Write the command; what is the default of softfree train is left out, but for what decides the input."""
    preprocessing, usual = origin.preprocessing, ModelOptions()
    given: dict[str, Any] = {
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
        if option not in given and arguments.get(argument) != getattr(usual, option):
            given[option] = arguments.get(argument)
    if more := {name: value for name, value in arguments.items() if name not in TAKEN_OVER}:
        given["model_options"] = more
    given |= _of_the_table(origin)
    words = ["softfree", "train", _table_of(origin, options)]
    for name, value in (given | {"lr": RATE, "out": "run_seqnorm"}).items():
        words += [f"--{name.replace('_', '-')}", _as_text(value)]
    return shlex.join(words)


def _table_of(origin: Source, options: ConvertOptions) -> str:
    if len(options.images) == 1 and Path(options.images[0]).suffix.lower() in TABLES:
        return options.images[0]
    return "TABLE" if origin.run is None else str(origin.run.config["options"]["table"])


def _of_the_table(origin: Source) -> dict[str, Any]:
    """Give the options that say what is predicted, where they are not the usual ones."""
    if origin.run is None:
        return {}
    usual, stated = TableOptions(), origin.run.config["options"]
    names = ("label", "labels", "positive", "image_root", "seed")
    return {name: stated[name] for name in names if stated.get(name) != getattr(usual, name)}


def _as_text(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
    return str(value)
