"""Several attentions, one recipe, the same seeds: does the softmax-free one learn as well, and what does it cost?"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from softfree.errors import UserError
from softfree.evaluation.bootstrap import patient_weights
from softfree.evaluation.quantities import quantities
from softfree.evaluation.scores import Scores
from softfree.files import replacing, write_atomically
from softfree.machine import describe_machine, versions
from softfree.options import AttentionStudyOptions
from softfree.runs import Run, read_cost
from softfree.scoring import PREDICTIONS, scores_of
from softfree.studies.plots import plot_attentions

STATISTICS = ("auroc", "balanced_accuracy")
RESAMPLES = 2000


def study_attentions(options: AttentionStudyOptions, table: Path) -> pd.DataFrame:
    """Train every attention with every seed, unless it is done already, and tabulate the test results.

    Writes ``runs.csv`` (a row a run), ``attentions.csv`` and ``attentions.md`` (a row an attention: mean over seeds
    with an interval over patients, difference to the first attention paired by patient and seed), ``attentions.png``
    and ``machine.json`` into ``options.out``.

    Raises:
        UserError: when a run fails; the others are kept.
    """
    if not options.seeds or len(options.attentions) < 1:
        raise UserError("--attentions and --seeds: expected at least one of each")
    cells = [(attention, seed) for seed in options.seeds for attention in options.attentions]
    for attention, seed in track(cells, "Training", console=Console(stderr=True)):
        _train_cell(options, table, attention, seed)
    runs = {(a, s): Run.load(_folder(options, a, s)) for a, s in cells}
    with replacing(options.out / "runs.csv") as temporary:
        pd.DataFrame([_run_row(a, s, run) for (a, s), run in runs.items()]).to_csv(temporary, index=False)
    summary = summarise({cell: _test_scores(run) for cell, run in runs.items()}, options)
    costs = {a: [_cost(runs[a, s]) for s in options.seeds] for a in options.attentions}
    for name in ("seconds", "cpu_seconds", "peak_gib"):
        summary[name] = [float(np.nanmedian([cost[name] for cost in costs[a]])) for a in summary["attention"]]
    with replacing(options.out / "attentions.csv") as temporary:
        summary.to_csv(temporary, index=False)
    write_atomically(options.out / "attentions.md", to_markdown(summary, len(options.seeds)))
    record = {"command": " ".join(sys.argv[1:]), "machine": describe_machine(), "versions": versions()}
    write_atomically(options.out / "machine.json", json.dumps(record, indent=2))
    plot_attentions(options.out / "attentions.png", summary, title=table.parent.name)
    return summary


def summarise(scores: dict[tuple[str, int], Scores], options: AttentionStudyOptions) -> pd.DataFrame:
    """Mean over seeds of each statistic, and its difference to the first attention; percentile intervals over patients.

    The same resampled patients serve all runs, so that differences are paired; the spread over seeds stands beside.
    Balanced accuracy is at probability one half, since thresholds from a small validation set would add their noise.
    """
    rows = []
    draws = {cell: _draws(score, options.seed) for cell, score in scores.items()}
    peer = options.attentions[0]
    for attention in options.attentions:
        row: dict[str, Any] = {"attention": attention}
        for name in STATISTICS:
            values = [quantities(scores[attention, s])[name].value for s in options.seeds]
            mean = np.mean([draws[attention, s][name] for s in options.seeds], axis=0)
            rival = np.mean([draws[peer, s][name] for s in options.seeds], axis=0)
            row[name] = float(np.mean(values))
            row[f"{name}_low"], row[f"{name}_high"] = np.nanpercentile(mean, [2.5, 97.5])
            row[f"{name}_seeds"] = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
            row[f"{name}_minus_{peer}_low"], row[f"{name}_minus_{peer}_high"] = np.nanpercentile(
                mean - rival, [2.5, 97.5]
            )
        rows.append(row)
    return pd.DataFrame(rows)


def to_markdown(summary: pd.DataFrame, seeds: int) -> str:
    """The summary as a table for people."""
    peer = summary["attention"].iloc[0]
    lines = [
        f"Mean over {seeds} seeds [95 % interval over patients] (standard deviation over seeds)."
        if seeds > 1
        else "One seed [95 % interval over patients].",
        "",
        f"| attention | AUROC | minus {peer} | balanced accuracy | minus {peer} "
        "| training, s (CPU s) | peak memory, GiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in summary.to_dict("records"):
        cells = [str(row["attention"])]
        for name in STATISTICS:
            spread = f" ({row[f'{name}_seeds']:.3f})" if seeds > 1 else ""
            cells.append(f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]{spread}")
            low, high = row[f"{name}_minus_{peer}_low"], row[f"{name}_minus_{peer}_high"]
            cells.append("" if row["attention"] == peer else f"[{low:+.3f}, {high:+.3f}]")
        cells += [f"{row['seconds']:.0f} ({row['cpu_seconds']:.0f})", f"{row['peak_gib']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _train_cell(options: AttentionStudyOptions, table: Path, attention: str, seed: int) -> None:
    folder = _folder(options, attention, seed)
    if (folder / "metrics.json").is_file():
        return
    if (folder / "config.yaml").is_file():
        arguments = ["--resume", str(folder)]
    else:
        chosen = asdict(options) | {"seed": seed, "model": _named(options.model, attention), "out": str(folder)}
        for name in ("attentions", "seeds"):
            del chosen[name]
        if attention != "seqnorm":
            chosen["attention_options"] = {}
        recipe = options.out / f".{folder.name}.yaml"
        write_atomically(recipe, json.dumps(chosen, default=str))  # JSON is YAML
        arguments = [str(table), "--config", str(recipe), "--progress=false"]
    done = subprocess.run([sys.executable, "-m", "softfree", "train", *arguments], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{folder.name} failed: {reason.removeprefix('softfree: error: ')}")


def _folder(options: AttentionStudyOptions, attention: str, seed: int) -> Path:
    return options.out / f"{attention}_seed{seed}"


def _named(model: str, attention: str) -> str:
    """The model of the same size with another attention."""
    return f"{attention}_vit_{model.split('_vit_', 1)[-1]}"


def _test_scores(run: Run) -> Scores:
    frame = pd.read_csv(run.folder / PREDICTIONS)
    return scores_of(frame[frame["split"] == "test"], run)


def _draws(scores: Scores, seed: int) -> dict[str, np.ndarray]:
    """Each statistic over resampled patients, ``(RESAMPLES,)``."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in STATISTICS}
    found = quantities(scores)
    for weights in patient_weights(scores.patients, resamples=RESAMPLES, seed=seed):
        for name in STATISTICS:
            leaves = found[name].parts or (name,)
            statistics = [found[leaf].statistic for leaf in leaves]
            parts[name].append(np.mean([s(weights) for s in statistics if s is not None], axis=0))
    return {name: np.concatenate(blocks) for name, blocks in parts.items()}


def _run_row(attention: str, seed: int, run: Run) -> dict[str, Any]:
    measured = json.loads((run.folder / "metrics.json").read_text())["metrics"]
    row: dict[str, Any] = {"attention": attention, "seed": seed}
    for name in STATISTICS:
        row |= {
            name: measured[name]["value"],
            f"{name}_low": measured[name]["low"],
            f"{name}_high": measured[name]["high"],
        }
    return row | _cost(run)


def _cost(run: Run) -> dict[str, float]:
    cost = read_cost(run.folder)
    whole = math.nan if cost["resumed"] else 1.0  # a resumed run counts its time from there on
    return {
        "seconds": whole * cost["seconds"],
        "cpu_seconds": whole * cost["cpu_seconds"],
        "peak_gib": cost["peak_bytes"] / 2**30,
    }
