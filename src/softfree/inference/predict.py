"""Predictions for files, folders, tables and arrays: one row per input."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from softfree.data.dataset import SampleCallback, SampleDataset
from softfree.data.inputs import find_inputs
from softfree.inference.forward import infer
from softfree.inference.options import InferenceOptions, PredictOptions
from softfree.inference.run_directory import Calibration
from softfree.inference.unusual import Distances
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import printable, replacing
from softfree_runtime.core.outputs import columns, probabilities
from softfree_runtime.core.targets import Targets
from softfree_runtime.core.task import Task
from softfree_runtime.preprocessing.case import case_ids, missing_variables, note_unknown, variables_of
from softfree_runtime.sources.inputs import Input, NamedSource

if TYPE_CHECKING:
    from softfree.inference.run import Run


def predict(
    run: Run,
    inputs: Input | Sequence[Input],
    options: InferenceOptions | None = None,
    *,
    frame: int | None = None,
    image_root: str | Path | None = None,
) -> pd.DataFrame:
    """See :meth:`softfree.inference.run.Run.predict`."""
    sequence: Sequence[Input] = [inputs] if isinstance(inputs, (str, Path, np.ndarray)) else list(inputs)
    variables = variables_of(run.preprocessing)
    found = find_inputs(sequence, frame, run.preprocessing.kind, image_root, variables)
    note_unknown(run.preprocessing, [source for _, source, _ in found])
    return predict_sources(run, found, options)


def predict_sources(
    run: Run,
    samples: Sequence[NamedSource],
    options: InferenceOptions | None = None,
    *,
    on_sample: SampleCallback | None = None,
) -> pd.DataFrame:
    """Predict samples that are found already: name, source and frame of each; ``on_sample`` as for :func:`infer`."""
    names, sources, frames = zip(*samples, strict=True)
    dataset = SampleDataset(sources, None, run.preprocessing, frames=frames)
    distances = Distances(run.distributions, len(dataset)) if run.distributions else None
    outputs_of = len(run.task.outputs)
    logits = infer(run.model, dataset, outputs_of, options, on_sample=on_sample, on_token_means=distances)
    rows = pd.DataFrame({"path": list(names), "status": "ok", "reason": ""})
    if cases := case_ids(sources):
        rows.insert(1, "case_id", cases)
    if missing := missing_variables(run.preprocessing, sources):
        rows["missing_variables"] = missing
    for index, error in logits.partial.items():
        rows.loc[index, "reason"] = printable(str(error))
    for index, error in logits.failed.items():
        rows.loc[index, ["status", "reason"]] = [error.status, printable(str(error))]
    if logits.members is not None:
        rows = pd.concat([rows, disagreements(logits.members, run)], axis=1)
    tables = [rows, answers(logits.values, run)]
    return pd.concat(tables if distances is None else [*tables, distances.columns(logits.failed)], axis=1)


def answers(logits: np.ndarray, run: Run) -> pd.DataFrame:
    """Return the columns of :func:`outputs`; of several targets those of each, as ``<target>.<column>``."""
    if not run.parts:
        return outputs(logits, run.task, run.calibration)
    return prefixed({name: outputs(own, run.parts[name].task, run.parts[name].calibration)
                     for name, own in by_target(logits, run).items()})  # fmt: skip


def disagreements(members: np.ndarray, run: Run) -> pd.DataFrame:
    """Return the column of :func:`disagreement`, in the unit of the target; of several targets one for each."""
    if not run.parts:
        unit = 1 / run.calibration.temperature if run.task.numeric else 1.0
        return pd.DataFrame({"disagreement": disagreement(members, run.task, run.calibration) * unit})
    return prefixed({name: disagreements(own, run.parts[name]) for name, own in by_target(members, run).items()})


def by_target(outputs: np.ndarray, run: Run) -> dict[str, np.ndarray]:
    """Return the outputs ``(..., K)`` of each of several targets."""
    assert isinstance(run.task, Targets)
    return {name: outputs[..., own] for name, own in run.task.output_slices().items()}


def prefixed(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Join the columns of several targets as ``<target>.<column>``."""
    return pd.concat([frame.add_prefix(f"{name}.") for name, frame in frames.items()], axis=1)


def disagreement(members: np.ndarray, task: Task, calibration: Calibration | None = None) -> np.ndarray:
    """Return how far the members of an ensemble disagree about each sample; about classes from 0 to 0.5.

    This is the standard deviation of their calibrated probabilities, for the class where it is largest; of a
    regression, of their outputs; of survival, of their risks.

    Args:
        members: Calibrated logits (n, M, K); NaN for samples without.
        task: The task.
        calibration: Of the ensemble; survival needs it.
    """
    if task.timed:
        assert calibration is not None
        assert calibration.survival is not None
        flat = members.reshape(-1, members.shape[2])
        return calibration.survival.risks(flat, task).reshape(members.shape[:2]).std(axis=1)
    if task.numeric:
        return np.asarray(members.std(axis=1)[:, 0])
    flat = probabilities(members.reshape(-1, members.shape[2]), task)
    return flat.reshape(*members.shape[:2], -1).std(axis=1).max(axis=1)  # ordered classes are one more than outputs


def outputs(logits: np.ndarray, task: Task, calibration: Calibration) -> pd.DataFrame:
    """Return the columns that follow from logits ``(n, K)``; empty for NaN.

    They are ``p_<class>``, ``raw_<class>`` and ``predicted``, and with conformal sets those of
    :meth:`~softfree_runtime.core.conformal.ConformalSets.columns`; of a regression ``value``, ``low`` and ``high``;
    of survival those of :meth:`~softfree_runtime.core.survival.Survival.columns`.
    """
    sets = calibration.sets
    arguments = (task, calibration.temperature, calibration.thresholds, sets, calibration.scale, calibration.survival)
    names = columns(np.full(len(task.outputs), np.nan), *arguments)
    table = pd.DataFrame([columns(row, *arguments) for row in logits], columns=list(names))
    if not task.by_class:
        return table.astype(np.float64)
    numbers = [f"{kind}_{name}" for kind in ("p", "raw") for name in task.classes]
    table[numbers] = table[numbers].astype(np.float64)
    return table if sets is None else table.astype({"abstain": "boolean"})


def check_output(path: Path) -> None:
    """Refuse an output file whose extension is neither .csv nor .parquet."""
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise UserError(f"--out {path}: expected a name that ends in .csv or .parquet")


def predict_to_file(run: Run, inputs: list[str], options: PredictOptions, *, as_json: bool = False) -> int:
    """Predict and write ``options.out``; the exit status is 0, 1 (some failed) or 2 (all failed)."""
    check_output(options.out)
    inference_options = replace(options, progress=options.progress and not as_json)
    rows = predict(run, inputs, inference_options, frame=options.frame, image_root=options.image_root)
    with replacing(options.out) as temporary:
        rows.to_parquet(temporary) if options.out.suffix.lower() == ".parquet" else rows.to_csv(temporary, index=False)
    failed = rows[rows["status"] != "ok"]
    if as_json:
        print(json.dumps(json.loads(rows.to_json(orient="records")), indent=2))
    for reason in rows["reason"][rows["reason"] != ""]:
        print(f"softfree: {reason}", file=sys.stderr)
    if len(failed) == len(rows):
        raise UserError(f"none of the {len(rows)} inputs could be read; the reasons are in {options.out}")
    print(f"{len(rows) - len(failed)} of {len(rows)} predicted; written to {options.out}", file=sys.stderr)
    return 1 if len(failed) else 0
