"""Summary of finished trials: means over seeds, intervals over seeds and patients, differences from the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from softfree_lab.studies.paired_bootstrap import BootstrapEstimate, bootstrap
from softfree_lab.studies.takeoff import LEVEL, log_rank, median_steps, steps_until
from softfree_lab.studies.trials import Trial, TrialKey

STATISTICS = ("auroc", "balanced_accuracy")
TITLES = {"auroc": "AUROC", "balanced_accuracy": "balanced accuracy"}
COSTS = {"cpu_seconds": ".0f", "peak_gib": ".2f"}
SEED = 0  # of the resampling


def summarize(
    trials: Mapping[TrialKey, Trial],
    variants: Sequence[str],
    scales: Sequence[float],
    *,
    margin: float,
    num_bootstrap: int,
) -> pd.DataFrame:
    """Compute one row per data set, side and variant.

    Intervals cover the choice of seeds and of patients: each replicate resamples both with replacement, in the same way
    for all variants, so that differences from the reference, the first variant, are paired by both. With few seeds
    intervals are somewhat too narrow (by a tenth with five). Balanced accuracy uses the most probable class, or
    probability one half: thresholds from a small validation set would add noise. The steps until the validation AUROC
    reached 0.9 are included if the trials recorded them; see :mod:`softfree_lab.studies.takeoff`.

    Args:
        trials: The finished trials.
        variants: Order of the variants, the reference first.
        scales: Image sides at test time, relative to the side in training.
        margin: Non-inferiority margin of AUROC.
        num_bootstrap: Number of replicates.
    """
    rows = []
    for data in dict.fromkeys(key.data for key in trials):
        for scale in scales:
            estimates = _bootstrap_all({k: c for k, c in trials.items() if k.data == data}, scale, num_bootstrap)
            reference = {seed: estimates[v, seed] for v, seed in estimates if v == variants[0]}
            for variant in variants:
                own = {seed: estimates[v, seed] for v, seed in estimates if v == variant}
                if own:
                    trained = _trained(trials, data, variant)
                    row = {"data": data, "scale": scale, "variant": variant, "seeds": len(own)}
                    row |= _row(own, reference, variant == variants[0], margin)
                    row |= _takeoff(trained, {} if variant == variants[0] else _trained(trials, data, variants[0]))
                    rows.append(row | _costs(list(trained.values())))
    return pd.DataFrame(rows)


def _trained(trials: Mapping[TrialKey, Trial], data: str, variant: str) -> dict[int, Trial]:
    """Return the trials of a variant by seed."""
    return {key.seed: trial for key, trial in trials.items() if key[:2] == (data, variant)}


def trials_table(trials: Mapping[TrialKey, Trial]) -> pd.DataFrame:
    """Compute one row per trial and side, without intervals."""
    rows: list[dict[str, Any]] = []
    for key, trial in sorted(trials.items()):
        for scale in trial.probabilities:
            estimates = bootstrap(trial.scores(float(scale)), STATISTICS, num_bootstrap=1, seed=SEED)
            values = {name: estimates[name].value for name in STATISTICS}
            values |= _takeoff({key.seed: trial}, {})
            rows.append(key._asdict() | {"scale": float(scale)} | values | _costs([trial]))
    return pd.DataFrame(rows)


def to_markdown(summary: pd.DataFrame, *, margin: float) -> str:
    """Lay out the summary, one table per data set and side."""
    tables = []
    for (data, scale), rows in summary.groupby(["data", "scale"], sort=False):
        reference = rows["variant"].iloc[0]
        title = f"**{data}**" + ("" if scale == 1.0 else f", tested at {scale:g} times the side")
        steps = scale == 1.0 and bool(rows["took_off"].notna().any())
        heads = [
            "variant",
            "AUROC",
            f"minus {reference}",
            f"at a margin of {margin:g}",
            "balanced accuracy",
            f"minus {reference}",
        ]
        heads += [f"steps to a validation AUROC of {LEVEL:g}", f"log-rank p against {reference}"] if steps else []
        heads += ["training, CPU s", "peak, GiB"]
        lines = [
            f"{title}: mean over {_span(rows['seeds'])} seeds [95 % interval over seeds and patients]",
            "",
            f"| {' | '.join(heads)} |",
            f"|{'---|' * len(heads)}",
        ]
        lines += [_markdown_row(row, steps) for row in rows.to_dict("records")]
        tables.append("\n".join(lines) + "\n")
    return "\n".join(tables)


def _span(numbers: pd.Series) -> str:
    low, high = int(numbers.min()), int(numbers.max())
    return str(low) if low == high else f"{low} to {high}"


def _markdown_row(row: dict[Any, Any], steps: bool) -> str:
    cells = [row["variant"]]
    for name in STATISTICS:
        cells.append(f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]")
        lower, upper = row[f"{name}_minus_low"], row[f"{name}_minus_high"]
        cells.append("" if math.isnan(lower) else f"{row[f'{name}_minus']:+.3f} [{lower:+.3f}, {upper:+.3f}]")
        if name == "auroc":
            cells.append(row["verdict"])
    if steps:
        cells += ["" if math.isnan(row["took_off"]) else _in_words(row), _known(row["steps_p"], ".2g")]
    cells += [_known(row[name], form) for name, form in COSTS.items()]
    return f"| {' | '.join(cells)} |"


def _known(value: float, form: str) -> str:
    return "" if math.isnan(value) else f"{value:{form}}"


def _in_words(row: dict[Any, Any]) -> str:
    """Format the median over seeds and how many reached the level: "90 (5 of 5)"; without a median "- (2 of 5)"."""
    median = "-" if math.isinf(row["steps"]) else f"{row['steps']:.0f}"
    return f"{median} ({row['took_off']:.0f} of {row['seeds']})"


def _bootstrap_all(
    trials: Mapping[TrialKey, Trial], scale: float, num_bootstrap: int
) -> dict[tuple[str, int], dict[str, BootstrapEstimate]]:
    return {
        (key.variant, key.seed): bootstrap(trial.scores(scale), STATISTICS, num_bootstrap=num_bootstrap, seed=SEED)
        for key, trial in trials.items()
        if f"{scale:g}" in trial.probabilities
    }


def _row(
    own: dict[int, dict[str, BootstrapEstimate]],
    reference: dict[int, dict[str, BootstrapEstimate]],
    is_reference: bool,
    margin: float,
) -> dict:
    row: dict[str, Any] = {}
    shared = [seed for seed in own if seed in reference]
    for name in STATISTICS:
        values = [own[seed][name].value for seed in own]
        row[name] = float(np.mean(values))
        row[f"{name}_low"], row[f"{name}_high"] = _percentiles([own[seed][name].replicates for seed in own])
        row[f"{name}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        row |= {f"{name}_minus": math.nan, f"{name}_minus_low": math.nan, f"{name}_minus_high": math.nan}
        if shared and not is_reference:
            differences = [own[seed][name] - reference[seed][name] for seed in shared]
            row[f"{name}_minus"] = float(np.mean([d.value for d in differences]))
            row[f"{name}_minus_low"], row[f"{name}_minus_high"] = _percentiles([d.replicates for d in differences])
    row["verdict"] = _verdict(row["auroc_minus_low"], row["auroc_minus_high"], margin)
    return row


def _percentiles(replicates: list[np.ndarray]) -> tuple[float, float]:
    """Return the central 95 % of the mean over resampled seeds, each replicate with its own patients."""
    table = np.array(replicates)  # (S, R)
    rng = np.random.default_rng(SEED)
    seeds = rng.integers(len(table), size=table.shape)  # the same for all variants with the same number of seeds
    means = np.take_along_axis(table, seeds, axis=0).mean(axis=0)
    low, high = np.nanpercentile(means, [2.5, 97.5])
    return float(low), float(high)


def _verdict(low: float, high: float, margin: float) -> str:
    if math.isnan(low):
        return ""
    if low > 0:
        return "better"
    if high < -margin:
        return "inferior"
    return "not inferior" if low > -margin else "open"


def _takeoff(own: Mapping[int, Trial], reference: Mapping[int, Trial]) -> dict[str, float]:
    """Return the median steps to the level, how many seeds reached it, and a test against the reference."""
    known = [result for trial in own.values() if (result := steps_until(trial)) is not None]
    return {
        "steps": median_steps(list(own.values())),
        "took_off": float(sum(reached for _, reached in known)) if known else math.nan,
        "steps_p": log_rank(own, reference),
    }


def _costs(trials: Sequence[Trial]) -> dict[str, float]:
    """Return medians over seeds; times of resumed runs are incomplete and therefore ignored."""

    def median(name: str, unit: float = 1.0) -> float:
        known = [c.cost[name] / unit for c in trials if name == "peak_bytes" or not c.cost["resumed"]]
        return float(np.median(known)) if known else math.nan

    return {
        "seconds": median("seconds"),
        "cpu_seconds": median("cpu_seconds"),
        "peak_gib": median("peak_bytes", 2**30),
        "multiply_adds": float(trials[0].cost["multiply_adds"] or math.nan),
    }
