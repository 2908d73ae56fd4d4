"""What commands share that train one recipe many times: its options, the table, and going on as it was begun."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

from softfree.core.choices import checked
from softfree.core.options import Target, TrainOptions
from softfree.data.labels import LABEL_OPTIONS, label_options
from softfree.data.samples import join_cases
from softfree.data.table import Table, read_table
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import read_yaml
from softfree_runtime.sources.cases import CASE

UNFIT = {"patience": "it would choose epochs on the held-out samples", "teacher": "it may have seen what is held out"}
SET = {"table", "out", "seed", "fold", "fold_file", "repeat", "split_from", "image_root", *LABEL_OPTIONS}


class HasTable(Protocol):
    """Options that say how a table is read."""

    label: str
    event: str | None
    labels: list[str] | None
    positive: str | None
    task: Target | None
    classes_in_order: list[str] | None
    targets: Path | None
    image_root: Path | None
    ignore_split: bool
    seed: int


def check_recipe(train: Mapping[str, Any], command: str) -> None:
    """Refuse options that :func:`check_names` refuses, and values that softfree train does not take.

    Raises:
        UserError: Names the option.
    """
    check_names(train, command, "--train")
    checked(TrainOptions(table=Path(), **train))


def check_names(train: Mapping[str, Any], command: str, flag: str) -> None:
    """Refuse options that softfree train does not have, that the command sets, or that would leak.

    Raises:
        UserError: Names the option.
    """
    known = {field.name for field in fields(TrainOptions)}
    for name, value in train.items():
        if name not in known:
            raise UserError(f"{flag}: softfree train has no option {name!r}; see: softfree train --help")
        if name in UNFIT and value is not None:
            raise UserError(f"{flag}: {name} cannot be used here: {UNFIT[name]}; leave it out")
        if name in SET:
            raise UserError(f"{flag}: {name} is set by softfree {command}; leave it out")


def read_whole_table(path: Path, options: HasTable) -> Table:
    """Read a table whose rows, joined by case, are drawn into folds; its own split is kept."""
    table = read_table(
        path,
        **label_options(options),
        image_root=options.image_root,
        seed=options.seed,
        val_fraction=0.0,
        test_fraction=1.0,
        strict_patients=not options.ignore_split,
    )
    variables = label_options(options)["variables"] or ()
    return join_cases(table, variables) if CASE in table.frame or variables else table


def refuse_other_content(out: Path, settings: str) -> None:
    """Refuse a folder with files of something else.

    Raises:
        UserError: It is not empty and lacks the file with the settings, or is a file.
    """
    if (out / settings).is_file() or not out.exists():
        return
    if not out.is_dir() or any(path.name != ".lock" for path in out.iterdir()):
        raise UserError(f"--out {out} is not empty and has no {settings}; choose another folder")


def check_begun(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings than those that a folder was begun with.

    Raises:
        UserError: Names the first setting that differs.
    """
    if not path.is_file():
        return
    begun = read_yaml(path, "settings")
    for name, value in settings.items():
        if not isinstance(begun, dict) or begun.get(name) != value:
            was = begun.get(name) if isinstance(begun, dict) else "?"
            raise UserError(
                f"{path.parent} was begun with {name} {was}, not {value}: use the same again, or another --out"
            )
