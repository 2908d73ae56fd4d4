"""Start of a training run: validated options, the table, an unused folder, and the configuration that records them."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

from softfree.core.choices import checked
from softfree.core.environment import versions
from softfree.core.options import SurvivalLossName, TrainOptions
from softfree.data.labels import label_options, refuse_with_targets
from softfree.data.modalities.base import Preprocessing
from softfree.data.modalities.registry import modality_of, preprocessing_to_config
from softfree.data.samples import as_samples, training_modality
from softfree.data.table import Table, read_table
from softfree.data.targets import refuse_unknown, specs_of, task_in_config
from softfree.data.variables import scales
from softfree.inference.run_directory import RunDirectory, check_fold, known_split
from softfree.models.registry import supported_arguments
from softfree.reporting.facts import table_facts
from softfree.training.follow_up import (
    check_survival_options,
    check_survival_targets,
    time_settings,
    with_intervals,
)
from softfree.training.modality import (
    refuse_batches,
    refuse_for_cases,
    refuse_foreign_options,
    training_preprocessing,
)
from softfree.training.progressive_size import check_start_size
from softfree_runtime.core.errors import UserError
from softfree_runtime.preprocessing.variables import TakesVariables

_PATHS = ("table", "targets", "image_root", "split_from", "fold_file", "teacher", "series", "views", "token_store")


def check_options(options: TrainOptions) -> None:
    """Refuse options that cannot work, before anything is read."""
    checked(options)
    refuse_foreign_options(options)
    if (options.mixup or options.cutmix) and (options.preset == "radiograph" or modality_of(options).name != "image"):
        raise UserError("--mixup and --cutmix are for the color presets photo and microscopy; leave them at 0")
    if options.precision == "fp16" and options.accelerator == "cpu":
        raise UserError("--precision fp16 needs a GPU; on a CPU use bf16 or fp32")
    world = options.nodes * (options.devices if isinstance(options.devices, int) and options.devices > 0 else 1)
    if options.batch_size % world:
        raise UserError(
            f"--batch-size {options.batch_size} cannot be shared by {world} devices; expected a multiple of {world}"
        )
    if options.lr == "find" and (world > 1 or options.devices == "auto"):
        raise UserError("--lr find works on one device; find the rate with --devices 1, and set --lr")
    _check_target(options)
    refuse_batches(options)
    check_fold(options)
    check_start_size(options, modality_of(options).name)


def _check_target(options: TrainOptions) -> None:
    """Refuse options that a target of the kind of ``--task`` does not have."""
    if options.targets is not None:
        refuse_with_targets(vars(options))
        for name in ("mixup", "cutmix", "teacher"):
            if getattr(options, name):
                raise UserError(f"--{name} is for a run of one target; leave it out with --targets")
        for name in ("cuts", "horizons", "loss"):
            value = getattr(options, name)
            if value if name != "loss" else value in get_args(SurvivalLossName):
                raise UserError(
                    f"--{name} {value} is for a run of one target; with --targets write '{name}: {value}' below the"
                    f" target, in {options.targets}"
                )
        check_survival_targets(options)
        return
    kind = "survival" if options.loss in get_args(SurvivalLossName) else "regression"
    if options.loss is not None and options.task != kind:
        raise UserError(f"--loss {options.loss} is for --task {kind}; leave it out")
    for name in ("cuts", "horizons"):
        if getattr(options, name) is not None and options.task != "survival":
            raise UserError(f"--{name} is for --task survival; leave it out")
    for name in ("mixup", "cutmix"):
        if getattr(options, name) and options.labels:
            raise UserError(f"--{name} is for exclusive classes, and the findings of --labels are not; leave it out")
    if options.task not in ("regression", "survival"):
        return
    what = "a regression" if options.task == "regression" else "survival"
    for name in ("label_smoothing", "mixup", "cutmix", "class_weights", "teacher"):
        if getattr(options, name):
            raise UserError(f"--{name.replace('_', '-')} is for classes or findings; leave it out of {what}")
    if options.maps:
        raise UserError(f"--maps: the report shows maps of classes or findings; leave it out of {what}")
    if options.task == "survival":
        check_survival_options(options)


def read_training_table(options: TrainOptions, run: Path | None = None) -> Table:
    """Read the table, which must have training and validation rows; split as in ``run`` when that is resumed."""
    labels = label_options(options)
    specs = () if run is None else specs_of(RunDirectory(run).read_config())
    if specs:
        labels["targets"] = specs
    table = read_table(
        options.table,
        **labels,
        image_root=options.image_root,
        seed=options.seed,
        known=known_split(options) if run is None else RunDirectory(run).drawn_split(),
    )
    if options.split_from is not None and table.split_made is None:
        raise UserError(f"--split-from {options.split_from}: {options.table} has a split column; use only one of them")
    variables = options.variables or []
    modality = training_modality(table, modality_of(options), variables, options.views)
    if modality.name == "case":
        refuse_for_cases(options)
    table = as_samples(table, modality, variables=variables)
    for split in ("train", "val"):
        if len(table.where(split).frame) == 0 and options.fold_file is not None:
            raise UserError(f"{options.fold_file} was made for another table: it knows no row of {options.table}")
        if len(table.where(split).frame) == 0:
            raise UserError(
                f"{options.table} has no row in split {split}; mark some, or remove the column to have a split drawn"
            )
    refuse_unknown(table, ("train", "val"), options.table)
    return with_intervals(table, options, specs)


def refuse_folder(out: Path) -> None:
    """Refuse a folder that is in use; one in which no epoch was ever trained may be reused.

    Raises:
        UserError: It is a file, or a folder with other content or a run.
    """
    directory = RunDirectory(out)
    if not directory.is_unused():
        hint = f"resume it with: softfree train --resume {out}, or " if directory.is_run() else ""
        raise UserError(f"--out {out} already exists and is not empty; {hint}choose another folder")


def configuration(
    options: TrainOptions, table: Table, preprocessing: Preprocessing, notice: str | None
) -> dict[str, Any]:
    """Return the content of ``config.yaml``: everything needed to load the run and to resume it."""
    _, augmentation = training_preprocessing(options, preprocessing)
    values = {name: str(v) if isinstance(v, Path) else v for name, v in asdict(options).items()}
    values |= absolute_paths(options)
    model = {
        "name": options.model,
        "num_classes": len(table.task.outputs),
        **preprocessing.model_arguments(),
        "stem": options.stem,
        "pool": options.pool,
        "drop_path_rate": options.drop_path,
        "layer_scale": options.layer_scale,
        "mlp_chunk": options.mlp_chunk,
        "attention_options": options.attention_options,
        **options.model_options,
    }
    if isinstance(preprocessing, TakesVariables) and preprocessing.variables:
        training = table.where("train").sources or table.sources  # a plan has no splits yet
        variables = {"variables": scales(preprocessing.clinical_variables, training)}
        if preprocessing.kind == "bag":
            model |= variables
        else:
            model[preprocessing.kind] = model.get(preprocessing.kind, {}) | variables
    model = supported_arguments(model)
    times = time_settings(table, options)
    return {
        "notice": notice,
        "command": shlex.join(["softfree", *sys.argv[1:]]),
        "task": task_in_config(table.task, options.targets),
        "preprocessing": preprocessing_to_config(preprocessing),
        "augmentation": None if augmentation is None else augmentation.in_words(),
        "model": model,
        "table": table_facts(table),
        "options": values,
        "versions": versions(),
    } | ({"target": times} if times else {})


def absolute_paths(options: TrainOptions) -> dict[str, Any]:
    """Return the options that are paths as absolute paths, so that they are found from any folder."""
    paths = {name: getattr(options, name) for name in _PATHS}
    absolute: dict[str, Any] = {name: None if path is None else str(path.resolve()) for name, path in paths.items()}
    if options.weights is not None and Path(options.weights).exists():
        absolute["weights"] = str(Path(options.weights).resolve())
    return absolute


def options_of(config: dict[str, Any], folder: Path) -> TrainOptions:
    """Return the options that a run was started with, with its current folder."""
    known = {f.name for f in fields(TrainOptions)}
    values = {name: value for name, value in config["options"].items() if name in known}
    for name in _PATHS:
        values[name] = None if values.get(name) is None else Path(values[name])
    return TrainOptions(**(values | {"out": folder}))
