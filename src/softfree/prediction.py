"""Predictions for files, folders, tables and arrays: a row for every input."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from softfree.data.dataset import SampleDataset
from softfree.data.sources import WITH_RESOLUTION, join_source, resolutions
from softfree.data.table_file import no_column, read_table_file
from softfree.data.task import Task
from softfree.errors import UserError
from softfree.files import replacing
from softfree.inference import infer
from softfree.options import InferenceOptions, PredictOptions
from softfree.runtime import inputs as runtime_inputs
from softfree.runtime.inputs import Found, Input
from softfree.runtime.outputs import called, probabilities

if TYPE_CHECKING:
    from softfree.runs import Operating, Run


def predict(
    run: Run,
    inputs: Input | Sequence[Input],
    options: InferenceOptions | None = None,
    *,
    frame: int | None = None,
) -> pd.DataFrame:
    """See :meth:`softfree.runs.Run.predict`."""
    given: Sequence[Input] = [inputs] if isinstance(inputs, (str, Path, np.ndarray)) else list(inputs)
    group = run.config["options"].get("group", False)
    names, sources, frames = zip(*find_inputs(given, frame, run.preprocessing.kind, group), strict=True)
    dataset = SampleDataset(sources, None, run.preprocessing, frames=frames)
    logits = infer(run.model, dataset, len(run.task.classes), options)
    rows = pd.DataFrame({"path": list(names), "status": "ok", "reason": ""})
    for index, error in logits.failed.items():
        rows.loc[index, ["status", "reason"]] = [error.status, str(error)]
    return pd.concat([rows, outputs(logits.values, run.task, run.operating)], axis=1)


def outputs(logits: np.ndarray, task: Task, operating: Operating) -> pd.DataFrame:
    """Columns ``p_<class>``, ``raw_<class>`` and ``predicted`` for logits ``(n, K)``; empty where these are NaN."""
    calibrated = probabilities(logits, task, operating.temperature)
    raw = probabilities(logits, task)
    table = pd.DataFrame(calibrated, columns=[f"p_{name}" for name in task.classes])
    table[[f"raw_{name}" for name in task.classes]] = raw
    table["predicted"] = ["" if np.isnan(row).any() else called(row, task, operating.thresholds) for row in calibrated]
    return table


def find_inputs(given: Sequence[Input], frame: int | None, kind: str = "picture", group: bool = False) -> list[Found]:
    """As :func:`softfree.runtime.inputs.find_inputs`, with tables of all kinds; ``group`` joins a patient's rows."""
    return runtime_inputs.find_inputs(given, frame, kind, partial(_table_rows, kind=kind, group=group))


def _table_rows(path: Path, frame: int | None, kind: str, group: bool) -> list[Found]:
    """Name, source and frame of each row; the rows of a patient joined where ``group`` says so."""
    table = read_table_file(path, {"path", "frame", "patient_id"}).frame
    if "path" not in table:
        raise no_column(path, "path", list(table.columns), "expected one with the files, relative to the table")
    chosen = table["frame"] if "frame" in table else pd.Series(frame, index=table.index, dtype=object)
    resolved = "mpp" in table and kind in WITH_RESOLUTION
    known = resolutions(table["mpp"]) if resolved else [None] * len(table)
    rows: list[Found] = []
    for number, (name, given, mpp) in enumerate(zip(table["path"], chosen, known, strict=True)):
        if pd.isna(name):
            raise UserError(f"{path}: row {number} has no path; give one or remove the row")
        if not pd.isna(given) and not str(given).isdigit():
            raise UserError(f"{path}: row {number} has frame {given!r}; expected a whole number from 0, or nothing")
        source = join_source(str(path.parent / str(name)), mpp)
        rows.append((str(name), source, None if pd.isna(given) else int(given)))
    if not group or "patient_id" not in table:
        return rows
    patients = table["patient_id"].astype(object).where(table["patient_id"].notna(), "")
    return runtime_inputs.join_patients(zip(rows, map(str, patients), strict=True))


def predict_to_file(folder: str | Path, inputs: list[str], options: PredictOptions, *, as_json: bool = False) -> int:
    """Predict with a run directory and write ``options.out``; the exit status is 0, 1 (some failed) or 2 (all did)."""
    from softfree.runs import Run

    if options.out.suffix.lower() not in (".csv", ".parquet"):
        raise UserError(f"--out {options.out}: expected a name that ends in .csv or .parquet")
    asked = replace(options, progress=options.progress and not as_json)
    rows = predict(Run.load(folder), inputs, asked, frame=options.frame)
    with replacing(options.out) as temporary:
        rows.to_parquet(temporary) if options.out.suffix.lower() == ".parquet" else rows.to_csv(temporary, index=False)
    failed = rows[rows["status"] != "ok"]
    if as_json:
        print(json.dumps(json.loads(rows.to_json(orient="records")), indent=2))
    for reason in failed["reason"]:
        print(f"softfree: {reason}", file=sys.stderr)
    if len(failed) == len(rows):
        raise UserError(f"none of the {len(rows)} inputs could be read; their reasons are in {options.out}")
    print(f"{len(rows) - len(failed)} of {len(rows)} predicted; written to {options.out}", file=sys.stderr)
    return 1 if len(failed) else 0
