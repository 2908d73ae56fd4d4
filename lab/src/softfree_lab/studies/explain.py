"""``softfree-lab study explain``: tests of the saliency maps of each method and attention.

The tests are deletion and insertion (:mod:`~softfree_lab.studies.faithfulness`), random weights
(:mod:`~softfree.saliency.sanity_checks`) and, if the table locates the findings, localization
(:mod:`~softfree_lab.studies.localization`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from softfree.evaluation.bootstrap import distribution
from softfree.inference.run import Run
from softfree.reporting.scoring import own_table
from softfree_lab.records import write_csv, write_machine
from softfree_lab.studies.explain_images import ImageResults, evaluate_images, methods_of
from softfree_lab.studies.explain_report import EVERY, MEASURES, plot_curves, plot_measures, to_markdown
from softfree_lab.studies.load_runs import attention_names, open_runs
from softfree_lab.studies.options import ExplainStudyOptions
from softfree_lab.studies.paired_bootstrap import BootstrapEstimate
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import write_atomically


@dataclass(frozen=True)
class MapStudy:
    """The result of a study of saliency maps.

    Attributes:
        rows: One row per run, image and method: ``deletion_area`` and ``insertion_area`` under the probability of the
            class, ``random_area`` of random orders; ``deletion`` and ``insertion`` are these areas minus that of
            random orders. ``net``: 1 if the map of a confidently predicted class sums to more than zero, else 0. Rank
            correlations with the map of random weights, on the first images: ``head``, ``all``.
            ``pointing``, ``localization`` and their ``chance``, on images with a known position.
        summary: One row per attention, explained class (or all together), method and measure: the mean ``value``
            over runs and images, its 95 % interval over patients ``low``, ``high``, and ``n`` images.
        curves: One row per attention, method and step: ``share`` of the tokens, ``deletion``, ``insertion``.
        unreadable: One line per unreadable image.
    """

    rows: pd.DataFrame
    summary: pd.DataFrame
    curves: pd.DataFrame
    unreadable: list[str]

    def to_dict(self) -> list[dict[str, Any]]:
        """Return the summary, for JSON."""
        return json.loads(self.summary.to_json(orient="records"))

    def to_markdown(self) -> str:
        """Lay out the summary."""
        return to_markdown(self.rows, self.summary, self.unreadable)


def study_explain(options: ExplainStudyOptions, folders: Sequence[str | Path]) -> MapStudy:
    """Test the maps of runs on their test images.

    Writes ``maps.csv``, ``maps_summary.csv`` and ``maps_curves.csv`` (the three frames of the result), ``maps.md``,
    ``maps.png``, ``maps_curves.png`` and ``machine.json`` into ``options.out``.

    Raises:
        UserError: Runs of different tasks or without a grid of tokens, or no readable image.
    """
    for name in ("count", "orders"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected 1 or more")
    runs = open_runs(folders)
    how = "softfree-lab study explain RUN --table TABLE"
    tables = [own_table(run, options.table, how=how).where("test") for run in runs]
    for run in runs:
        methods_of(run, options)
    tested = [evaluate_images(run, table, options) for run, table in zip(runs, tables, strict=True)]
    unreadable = list(dict.fromkeys(line for result in tested for line in result.unreadable))
    if not any(result.rows for result in tested):
        raise UserError(
            f"none of the test images could be read; the first: {unreadable[0] if unreadable else 'there are none'}"
        )
    names = attention_names(runs)
    rows = _rows(runs, names, tested)
    study = MapStudy(rows, summarize(rows, options), _curves(names, tested), unreadable)
    _write(options.out, study)
    return study


def summarize(rows: pd.DataFrame, options: ExplainStudyOptions) -> pd.DataFrame:
    """Average over the runs of an attention, then over images; see :class:`MapStudy`."""
    summary: list[dict[str, Any]] = []
    for attention, of_attention in rows.groupby("attention", sort=False):
        for target in (EVERY, *sorted(of_attention["target"].unique())):
            class_specific = of_attention if target == EVERY else of_attention[of_attention["target"] == target]
            head = {"attention": attention, "runs": of_attention["run"].nunique(), "target": target}
            for method, own in class_specific.groupby("method", sort=False):
                summary += [head | {"method": method, **values} for values in _measures(own, options)]
    return pd.DataFrame(summary)


def _measures(own: pd.DataFrame, options: ExplainStudyOptions) -> list[dict[str, Any]]:
    measures = []
    for measure in (name for name in MEASURES if name in own):
        known = own.dropna(subset=[measure]).groupby("row").agg({measure: "mean", "patient": "first"})
        if len(known):
            estimate = _mean(known[measure].to_numpy(), known["patient"].to_numpy(), options)
            low, high, *_ = estimate.interval()
            measures.append({"measure": measure, "value": estimate.value, "low": low, "high": high, "n": len(known)})
    return measures


def _mean(values: np.ndarray, patients: np.ndarray, options: ExplainStudyOptions) -> BootstrapEstimate:
    """Return the mean with its bootstrap replicates over patients."""
    statistics = {"mean": lambda weights: weights @ values / weights.sum(axis=1)}
    draws = distribution(statistics, patients, num_bootstrap=options.num_bootstrap, seed=options.seed)["mean"]
    return BootstrapEstimate(float(values.mean()), draws, 0.0)


def _rows(runs: Sequence[Run], names: Sequence[str], tested: Sequence[ImageResults]) -> pd.DataFrame:
    rows = []
    for run, name, result in zip(runs, names, tested, strict=True):
        head = {"run": run.folder.name, "attention": name, "seed": run.config["options"].get("seed")}
        rows += [head | row for row in result.rows]
    return pd.DataFrame(rows)


def _curves(names: Sequence[str], tested: Sequence[ImageResults]) -> pd.DataFrame:
    """Average the curves over the runs of an attention."""
    rows = []
    for name, result in zip(names, tested, strict=True):
        for method, (shares, deletion, insertion) in result.curves.items():
            head = {"attention": name, "method": method}
            steps = enumerate(zip(shares, deletion, insertion, strict=True))
            rows += [head | {"step": i, "share": s, "deletion": d, "insertion": b} for i, (s, d, b) in steps]
    return pd.DataFrame(rows).groupby(["attention", "method", "step"], sort=False, as_index=False).mean()


def _write(out: Path, study: MapStudy) -> None:
    for name, frame in (("maps", study.rows), ("maps_summary", study.summary), ("maps_curves", study.curves)):
        write_csv(out / f"{name}.csv", frame, "%.5g")
    write_atomically(out / "maps.md", study.to_markdown())
    plot_measures(out / "maps.png", study.summary[study.summary["target"] == EVERY])
    plot_curves(out / "maps_curves.png", study.curves)
    write_machine(out)
