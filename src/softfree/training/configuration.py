"""What a training starts from: options that can work, a table, an empty folder, and a record of them."""

from __future__ import annotations

import math
import shlex
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from softfree.data.preparation import stored
from softfree.data.samples import as_samples
from softfree.data.table import Table, read_table
from softfree.errors import UserError
from softfree.machine import versions
from softfree.models.arguments import arguments_for
from softfree.options import TrainOptions
from softfree.runs import CONFIG
from softfree.training.checkpoints import LOCK
from softfree.training.samples import create_preparation, kind_of, refuse_batches, training_steps


def check_options(options: TrainOptions) -> None:
    """Refuse what cannot work before anything is read."""
    for name in ("epochs", "batch", "accumulate"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: expected 1 or more")
    if not 0 <= options.warmup < 1:
        raise UserError(f"--warmup {options.warmup}: expected a part of the steps, from 0 to below 1")
    if (options.mixup or options.cutmix) and (options.preset == "radiograph" or kind_of(options) != "picture"):
        raise UserError("--mixup and --cutmix are for the colour presets photo and microscopy; leave them at 0")
    if options.precision == "16" and options.accelerator == "cpu":
        raise UserError("--precision 16 needs a GPU; on a CPU use bf16 or 32")
    world = options.nodes * (options.devices if isinstance(options.devices, int) and options.devices > 0 else 1)
    if options.batch % world:
        raise UserError(f"--batch {options.batch} cannot be shared by {world} devices; expected a multiple of {world}")
    if not 0 <= options.teacher_weight <= 1:
        raise UserError(f"--teacher-weight {options.teacher_weight}: expected a share from 0 to 1")
    if not 0 < options.teacher_temperature < math.inf:
        raise UserError(f"--teacher-temperature {options.teacher_temperature}: expected more than 0")
    refuse_batches(options)


def read_training_table(options: TrainOptions) -> Table:
    """The table, which must have training and validation rows."""
    table = read_table(
        options.table,
        label=options.label,
        labels=options.labels,
        positive=options.positive,
        images=options.images,
        seed=options.seed,
    )
    table = as_samples(table, kind_of(options), group=options.group)
    for split in ("train", "val"):
        if len(table.where(split).frame) == 0:
            raise UserError(
                f"{options.table} has no row in split {split}; mark some, or leave out the column to have a split made"
            )
    if options.patience is not None and _one_class(table.where("val")):
        raise UserError("--patience needs validation images of both sorts, or there is no AUROC to wait for")
    return table


def _one_class(table: Table) -> bool:
    known = table.targets[~np.isnan(table.targets)] if table.task.kind == "multilabel" else table.targets
    return len(np.unique(known)) < 2


def refuse_folder(out: Path) -> None:
    """Refuse to mix with what is there; a folder in which no epoch was ever trained is taken over.

    Raises:
        UserError: a file, or a folder with something else in it, or with a training.
    """
    if not out.exists():
        return
    found = {path.name for path in out.iterdir()} if out.is_dir() else {""}
    begun = (out / "checkpoints").is_dir() and any((out / "checkpoints").glob("*.ckpt"))
    if found - {LOCK, CONFIG, "logs", "checkpoints"} or begun:
        hint = f"go on with: softfree train --resume {out}, or " if (out / CONFIG).is_file() else ""
        raise UserError(f"--out {out} is there already and not an empty folder; {hint}name another")


def configuration(options: TrainOptions, table: Table, notice: str | None) -> dict[str, Any]:
    """What ``config.yaml`` records: all that is needed to load the run, to resume it and to explain it."""
    preparation = create_preparation(options, table)
    _, changes = training_steps(options, preparation)
    stated = {name: str(v) if isinstance(v, Path) else v for name, v in asdict(options).items()}
    stated["table"] = str(options.table.resolve())
    for name in ("images", "teacher", "series"):
        given = getattr(options, name)
        stated[name] = None if given is None else str(given.resolve())
    model = {
        "name": options.model,
        "num_classes": len(table.task.classes),
        **preparation.model_arguments(),
        "stem": options.stem,
        "pool": options.pool,
        "drop_path_rate": options.drop_path,
        "layer_scale": options.layer_scale,
        "mlp_chunk": options.mlp_chunk,
        "attention_options": options.attention_options,
        **options.model_options,
    }
    model = arguments_for(model)
    return {
        "notice": notice,
        "command": shlex.join(["softfree", *sys.argv[1:]]),
        "task": {"kind": table.task.kind, "classes": list(table.task.classes)},
        "preprocessing": stored(preparation),
        "augmentation": None if changes is None else changes.in_words(),
        "model": model,
        "table": {"sha256": table.digest, "rows": len(table.frame), "split": table.split_made},
        "options": stated,
        "versions": versions(),
    }


def options_of(config: dict[str, Any], folder: Path) -> TrainOptions:
    """The options a run was started with, its folder being where it lies now."""
    known = {f.name for f in fields(TrainOptions)}
    values = {name: value for name, value in config["options"].items() if name in known}
    for name in ("table", "images", "teacher", "series"):
        values[name] = None if values.get(name) is None else Path(values[name])
    return TrainOptions(**(values | {"out": folder}))
