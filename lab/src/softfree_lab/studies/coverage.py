"""``softfree-lab study coverage``: simulation of how often the intervals of a report cover the true value.

The scores of a patient's images have a common component, so that they resemble each other. A second model sees the same
images and ranks them slightly worse; the difference in AUROC is measured, too. The true value of each metric is its
value over a population of 40,000 such patients. A metric without an interval (too few patients) is counted as such, not
as a miss.
"""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from numpy.random import Generator, default_rng

from softfree.core.progress import tracked
from softfree.evaluation.comparison import Difference, compare
from softfree.evaluation.metrics import Metric, measure
from softfree.evaluation.scores import Scores
from softfree_lab.records import markdown_table, write_csv, write_machine
from softfree_lab.studies.options import CoverageOptions
from softfree_runtime.core.files import replacing, write_atomically
from softfree_runtime.core.task import Task

TASK = Task("binary", ("absent", "present"))
SHARED = 0.8
"""Standard deviation of the component that the images of a patient share; that of an image is 1."""
ALIKE, WORSE = 0.8, 0.8
"""Correlation of the two models' noise; separation of the second model relative to the first."""
POPULATION = 40_000
DIFFERENCE = "auroc difference"

Setting = tuple[int, int, float, float, float]


def study_coverage(options: CoverageOptions) -> str:
    """Simulate, and write ``coverage.csv``, ``coverage.md``, ``coverage.png`` and ``machine.json`` into ``out``.

    Returns:
        The coverage of each metric as Markdown.
    """
    rows = simulate(options)
    text = to_markdown(rows)
    write_csv(options.out / "coverage.csv", rows, "%.4f")
    write_atomically(options.out / "coverage.md", text)
    write_machine(options.out)
    _plot(options.out / "coverage.png", rows)
    return text


def simulate(options: CoverageOptions) -> pd.DataFrame:
    """Simulate every setting.

    Returns:
        One row per metric and setting: ``patients``, ``images`` per patient, ``positives`` (share of the patients),
        ``separation`` of the classes in standard deviations of a negative image, ``spread`` of the positives,
        ``metric``, ``truth``, ``held`` (share of the intervals that cover the truth), ``given`` (share of the repeats
        with an interval), ``width`` (mean).
    """
    settings = list(product(options.patients, options.images, options.positives, options.separations, options.spreads))
    rows: list[dict[str, float | str]] = []
    for number, setting in enumerate(tracked(settings, "Simulating", total=len(settings), shown=options.progress)):
        rows += _simulate_setting(setting, default_rng((options.seed, number)), options)
    return pd.DataFrame(rows)


def _simulate_setting(setting: Setting, rng: Generator, options: CoverageOptions) -> list[dict[str, float | str]]:
    patients, images, positives, separation, spread = setting
    truth = {name: metric.value for name, metric in _draw((POPULATION, 1, *setting[2:]), rng, 2).items()}
    held: dict[str, list[bool]] = {name: [] for name in truth}
    widths: dict[str, list[float]] = {name: [] for name in truth}
    for _ in range(options.repeats):
        for name, metric in _draw(setting, rng, options.num_bootstrap).items():
            if name in truth and not math.isnan(metric.low):
                held[name].append(metric.low <= truth[name] <= metric.high)
                widths[name].append(metric.high - metric.low)
    return [
        {
            "patients": patients,
            "images": images,
            "positives": positives,
            "separation": separation,
            "spread": spread,
            "metric": name,
            "truth": truth[name],
            "held": float(np.mean(held[name])) if held[name] else math.nan,
            "given": len(held[name]) / options.repeats,
            "width": float(np.mean(widths[name])) if widths[name] else math.nan,
        }
        for name in truth
        if name not in ("ece", "auroc_delong")  # without intervals, or with intervals that ignore patients
    ]


def _draw(setting: Setting, rng: Generator, num_bootstrap: int) -> dict[str, Metric | Difference]:
    """Draw patients and compute the metrics of both models; a patient has one class."""
    patients, images, positives, separation, spread = setting
    positive = rng.random(patients) < positives
    y = np.repeat(positive.astype(int), images)
    patient = np.repeat(np.arange(patients), images)
    scale = np.where(y == 1, spread, 1.0)
    first = SHARED * rng.normal(size=patients)[patient] + rng.normal(size=len(y))
    other = SHARED * rng.normal(size=patients)[patient] + rng.normal(size=len(y))
    second = ALIKE * first + math.sqrt(1 - ALIKE**2) * other
    a, b = (
        _scores(share * separation * (y - 0.5) + scale * noise, y, patient)
        for share, noise in ((1, first), (WORSE, second))
    )
    seed = int(rng.integers(2**31))
    metrics: dict[str, Metric | Difference] = dict(measure(a, None, num_bootstrap=num_bootstrap, seed=seed))
    metrics[DIFFERENCE] = compare(a, b, num_bootstrap=num_bootstrap, seed=seed).differences["auroc"]
    return metrics


def _scores(score: np.ndarray, y: np.ndarray, patient: np.ndarray) -> Scores:
    p = 1 / (1 + np.exp(-score))
    return Scores(TASK, np.stack([1 - p, p], 1), y, patient)


def to_markdown(rows: pd.DataFrame) -> str:
    """Lay out the coverage, one row per number of patients and images, one column per metric.

    A cell has the share of the intervals that cover the truth, over all settings; in parentheses the worst of the
    settings in which at least half of the repeats have an interval.
    """
    metrics = list(dict.fromkeys(rows["metric"]))
    groups = rows.groupby(["patients", "images"])
    cells = [(*key, *(_cell(group[group["metric"] == name]) for name in metrics)) for key, group in groups]
    return markdown_table(("patients", "images per patient", *metrics), cells)


def _cell(own: pd.DataFrame) -> str:
    share_given = own["given"].mean()
    if not share_given:
        return "none given"
    share = np.average(own["held"].fillna(0), weights=own["given"])
    worst = own.loc[own["given"] >= 0.5, "held"].min()
    partly = "" if share_given > 0.995 else f", {share_given:.0%} given"
    return f"{100 * share:.1f} %{'' if math.isnan(worst) else f' ({100 * worst:.0f})'}{partly}"


def _plot(path: Path, rows: pd.DataFrame) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    axes.axhspan(0.93, 0.97, color="0.9", linewidth=0)
    axes.axhline(0.95, color="0.5", linewidth=0.8)
    for name, group in rows.groupby("metric"):
        mean = group[group["given"] > 0].groupby("patients")["held"].mean()
        axes.plot(mean.index, mean, marker="o", markersize=3, linewidth=1.2, label=str(name))
    axes.set_xscale("log")
    axes.set_xticks(sorted(rows["patients"].unique()), [str(n) for n in sorted(rows["patients"].unique())])
    axes.minorticks_off()
    axes.set_xlabel("patients")
    axes.set_ylabel("share of 95 % intervals\nthat cover the truth")
    axes.legend(fontsize=7, ncols=2, frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
    plt.close(figure)
