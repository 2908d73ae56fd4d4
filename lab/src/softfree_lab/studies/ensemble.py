"""``softfree-lab study ensemble``: what the ensemble of a study gains over its members, and test-time augmentation.

On held-out folds each sample is predicted by the members that were not trained on it, with and without augmented views.
On the fixed test rows, if the table has some, the ensemble is compared with the mean of its members, and with a single
model whose weights are the mean of theirs (a soup: Wortsman et al. 2022).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from softfree.core.environment import describe_machine
from softfree.data.table import Table
from softfree.evaluation.scores import Scores
from softfree.inference.options import InferenceOptions
from softfree.inference.run import Run
from softfree.inference.run_directory import Calibration
from softfree.reporting.scoring import own_table, predict_rows, scores_of
from softfree_lab.records import markdown_table, write_record
from softfree_lab.studies.options import EnsembleOptions
from softfree_lab.studies.paired_bootstrap import BootstrapEstimate, bootstrap, mean
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import refuse_numbers


@dataclass(frozen=True)
class EnsembleStudy:
    """The result.

    Attributes:
        rows: One row per set of samples and way to predict them: AUROC, its difference from the first way with a 95 %
            interval over patients, and seconds per sample.
    """

    rows: pd.DataFrame

    def to_dict(self) -> list[dict[str, Any]]:
        """Return the rows, for JSON."""
        return json.loads(self.rows.to_json(orient="records"))

    def to_markdown(self) -> str:
        """Lay out the rows."""
        columns = ("samples", "prediction", "AUROC", "difference (95 % interval)", "seconds per sample")
        lines = []
        for row in self.to_dict():
            difference = ""
            if row["difference"] is not None:
                difference = f"{row['difference']:+.4f}"
            if row["low"] is not None:
                difference += f" ({row['low']:+.4f} to {row['high']:+.4f})"
            samples = f"{row['samples']} ({row['n']})"
            auroc = "" if row["auroc"] is None else f"{row['auroc']:.4f}"
            lines.append((samples, row["prediction"], auroc, difference, f"{row['seconds']:.3f}"))
        return markdown_table(columns, lines)


def study_ensemble(options: EnsembleOptions, folder: str | Path) -> EnsembleStudy:
    """Measure the ways to predict with a study.

    Args:
        options: All settings.
        folder: A study of ``softfree auto`` with one draw of the folds and one seed.

    Returns:
        The rows, which are also written to ``options.out``.

    Raises:
        UserError: It is not such a study, or its table has changed.
    """
    study = Run.load(folder)
    refuse_numbers(study.task, "a study of ensembles")
    if not study.members:
        raise UserError(f"{folder} has no members; expected a study of softfree auto")
    table = own_table(study, options.own_table, how="--own-table")
    rows = _held_out(study.members, table, options)
    test = table.where("test")
    if len(test.frame):
        rows += _fixed_test(study, test, options)
    result = EnsembleStudy(pd.DataFrame(rows))
    record = asdict(options) | {"own_table": None}
    write_record(options.out, result.rows, record, machine=describe_machine(), text=result.to_markdown())
    return result


def _held_out(members: Sequence[Run], table: Table, options: EnsembleOptions) -> list[dict[str, Any]]:
    """Compare the samples alone with the mean over augmented views, each sample by a member that never saw it."""
    held = [own_table(member, options.own_table, how="--own-table").where("val") for member in members]
    if sum(len(part.frame) for part in held) != len(table.where("val").frame):
        raise UserError("the members hold out rows more than once; expected a study with one repeat and one seed")

    def pooled(tta: int) -> Callable[[], Scores]:
        def predict() -> Scores:
            parts = [_scores(member, part, options, tta) for member, part in zip(members, held, strict=True)]
            return Scores(
                parts[0].task,
                np.concatenate([part.probabilities for part in parts]),
                np.concatenate([part.targets for part in parts]),
                np.concatenate([part.patients for part in parts]),
            )

        return predict

    ways = {"its held-out member": pooled(1), f"with {options.tta} views": pooled(options.tta)}
    return _compared("held-out folds", ways, options)


def _fixed_test(study: Run, test: Table, options: EnsembleOptions) -> list[dict[str, Any]]:
    """Compare the mean member with the ensemble, the ensemble with views, and the averaged weights."""
    ways: dict[str, Callable[[], Scores | list[Scores]]] = {
        "mean of the members' AUROCs": lambda: [_scores(member, test, options) for member in study.members],
        "ensemble": lambda: _scores(study, test, options),
        f"ensemble with {options.tta} views": lambda: _scores(study, test, options, options.tta),
        "averaged weights": lambda: _scores(_soup(study.members), test, options),
    }
    return _compared("fixed test rows", ways, options)


def _compared(
    samples: str, ways: Mapping[str, Callable[[], Scores | list[Scores]]], options: EnsembleOptions
) -> list[dict[str, Any]]:
    first: BootstrapEstimate | None = None
    rows = []
    for name, predict in ways.items():
        began = time.perf_counter()
        result = predict()
        several = result if isinstance(result, list) else [result]
        seconds = (time.perf_counter() - began) / len(several[0]) / len(several)
        seed, count = options.seed, options.num_bootstrap
        estimates = [bootstrap(scores, ["auroc"], num_bootstrap=count, seed=seed)["auroc"] for scores in several]
        estimate = mean(estimates)
        interval = None if first is None else (estimate - first).interval()
        rows.append(
            {
                "samples": samples,
                "n": len(several[0]),
                "prediction": name,
                "auroc": estimate.value,
                "difference": np.nan if first is None else estimate.value - first.value,
                "low": np.nan if interval is None else interval.low,
                "high": np.nan if interval is None else interval.high,
                "seconds": seconds,
            }
        )
        first = first or estimate
    return rows


def _scores(run: Run, table: Table, options: EnsembleOptions, tta: int = 1) -> Scores:
    """Predict without the run's own calibration, which was chosen on the samples that it holds out."""
    inference = InferenceOptions(
        batch_size=options.batch_size, num_workers=options.num_workers, progress=options.progress, tta=tta
    )
    return scores_of(predict_rows(run, table, inference), replace(run, calibration=Calibration()))


def _soup(members: Sequence[Run]) -> Run:
    """Return the first member with the mean of all members' weights; what is not a float is the first's."""
    states = [member.model.state_dict() for member in members]
    averaged = {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }
    soup = Run.load(members[0].folder)
    model: nn.Module = soup.model
    model.load_state_dict(averaged)
    return soup
