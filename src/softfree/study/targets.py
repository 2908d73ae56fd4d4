"""A study of several targets: an ensemble for each of them, and one that predicts all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from softfree.data.folds import Folds
from softfree.data.table import Table
from softfree.data.targets import tables_of
from softfree.inference.run import Run
from softfree.inference.run_directory import RunDirectory
from softfree.reporting.targets import SHARED
from softfree.study.study_directory import MemberKey
from softfree_runtime.core.files import replacing
from softfree_runtime.core.targets import Targets


def studies_of(
    members: Mapping[MemberKey, Run], table: Table, folds: Folds
) -> dict[str, tuple[dict[MemberKey, Run], Table, Folds]]:
    """Return what the ensemble of each target is made of: members, table and folds of the rows in which it is known."""
    assert isinstance(table.task, Targets)
    known = table.task.known(table.targets)
    return {
        name: (
            {key: run.parts[name] for key, run in members.items()},
            rows,
            replace(folds, numbers=folds.numbers[:, known[name]]),
        )
        for name, rows in tables_of(table).items()
    }


def write_joined_predictions(directory: RunDirectory, names: tuple[str, ...]) -> None:
    """Write the predictions of all targets for held-out rows as one table; empty where a target is not known."""
    joined = join_predictions({name: RunDirectory(directory.target(name)).read_predictions() for name in names})
    with replacing(directory.predictions) as temporary:
        joined.to_csv(temporary, index=False)


def join_predictions(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Join the predictions of several targets by their rows: shared columns once, others as ``<target>.<column>``."""
    shared, own = [], {}
    for name, predictions in frames.items():
        frame = predictions.set_index("row")
        common = [column for column in frame if column in SHARED]
        shared.append(frame[common])
        own[name] = frame.drop(columns=common).add_prefix(f"{name}.")
    rows = np.unique(np.concatenate([frame.index for frame in shared]))
    first = pd.concat(shared)
    first = first[~first.index.duplicated()].reindex(rows)
    joined = pd.concat([first, *(frame.reindex(rows) for frame in own.values())], axis=1)
    return joined.rename_axis("row").reset_index()
