"""Tables and figures of the study: own accuracies beside published ones, cost by length, learning curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import binomtest

from softfree_lab.bench.plots import COLORS, logarithmic
from softfree_lab.long_range.tasks import ARENA, TASKS
from softfree_lab.long_range.trials import Key, Trial
from softfree_lab.records import markdown_table
from softfree_lab.studies.plots import STYLE
from softfree_runtime.core.files import replacing


def published() -> pd.DataFrame:
    """Return the published accuracies: method, task, accuracy in percent, source."""
    text = files("softfree_lab.long_range").joinpath("published.csv").read_text(encoding="utf-8")
    return pd.read_csv(StringIO(text))


def trials_table(trials: Mapping[Key, Trial]) -> pd.DataFrame:
    """Compute one row per finished training: accuracy with its 95 % interval over test samples (Wilson), and cost."""
    rows = []
    for key, trial in sorted(trials.items()):
        interval = binomtest(trial.correct, trial.tested).proportion_ci(method="wilson")
        recipe, progress = trial.settings["recipe"], trial.progress
        rows.append(
            key._asdict()
            | {
                "accuracy": 100 * trial.correct / trial.tested,
                "low": 100 * interval.low,
                "high": 100 * interval.high,
                "tested": trial.tested,
                "steps": progress["step"],
                "steps_of_recipe": recipe["steps"],
                "best_step": progress["best_step"],
                "validation_accuracy": 100 * progress["best"],
                "cpu_seconds": progress["cpu_seconds"],
                "cpu_seconds_per_step": progress["cpu_seconds"] / progress["step"],
                "seconds": progress["seconds"],
                "peak_mib": progress["peak_bytes"] / 2**20,
                "parameters": trial.parameters,
                "training_samples": trial.settings["samples"],
                "source": trial.settings["source"],
                "official": trial.official,
            }
        )
    return pd.DataFrame(rows)


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """Compute one row per task and attention: mean over seeds, and their range; medians of cost."""
    summary = []
    for (task, attention), own in rows.groupby(["task", "attention"], sort=False):
        accuracies = own["accuracy"]
        single = own.iloc[0]
        summary.append(
            {
                "task": task,
                "attention": attention,
                "seeds": len(own),
                "accuracy": accuracies.mean(),
                "low": single["low"] if len(own) == 1 else accuracies.min(),
                "high": single["high"] if len(own) == 1 else accuracies.max(),
                "validation_accuracy": own["validation_accuracy"].mean(),
                "steps": int(own["steps"].max()),
                "cpu_hours": own["cpu_seconds"].median() / 3600,
                "cpu_seconds_per_step": own["cpu_seconds_per_step"].median(),
                "peak_mib": own["peak_mib"].median(),
                "parameters": int(single["parameters"]),
                "official": bool(own["official"].all()),
                "source": single["source"],
            }
        )
    return pd.DataFrame(summary)


def to_markdown(
    summary: pd.DataFrame, unfinished: Sequence[tuple[Key, dict[str, Any]]], costs: pd.DataFrame, preset: str
) -> str:
    """Lay out all tables."""
    parts = []
    if len(summary):
        parts += [_accuracies(summary), _details(summary)]
    if unfinished:
        parts.append(_unfinished(unfinished))
    if len(costs):
        parts.append(_costs(costs))
    return "\n".join([f"Long Range Arena, recipe of {preset.capitalize()}\n", *parts])


def _accuracies(summary: pd.DataFrame) -> str:
    """One row per method, own ones first; a mean only over the five tasks of the arena on their own samples."""
    tasks = [task for task in TASKS if task in set(summary["task"])]
    known = published()
    own = summary.set_index(["attention", "task"])
    complete = set(ARENA) <= set(tasks) and bool(summary[summary["task"].isin(ARENA)]["official"].all())
    lines = []
    for attention in summary["attention"].unique():
        values = [own["accuracy"].get((attention, task), math.nan) for task in tasks]
        mean = [np.mean([own["accuracy"].get((attention, task), math.nan) for task in ARENA])] if complete else []
        lines.append([f"{attention}, here", *(_percent(value) for value in [*values, *mean]), ""])
    for (source, method), rows in known.groupby(["source", "method"], sort=False):
        by_task = rows.set_index("task")["accuracy"]
        values = [by_task.get(task, math.nan) for task in tasks]
        mean = [by_task.reindex(list(ARENA)).mean()] if complete else []
        lines.append([str(method), *(_percent(value) for value in [*values, *mean]), str(source)])
    heads = ["method", *(TASKS[task].title for task in tasks), *(["mean"] if complete else []), "published in"]
    missing = "" if complete else f"\n{_why_no_mean(summary)}\n"
    return f"**Test accuracy, %**\n\n{markdown_table(heads, lines)}{missing}"


def _why_no_mean(summary: pd.DataFrame) -> str:
    done = set(summary["task"])
    absent = [TASKS[task].title for task in ARENA if task not in done]
    other = [
        TASKS[task].title for task in TASKS if task in done and not summary[summary["task"] == task]["official"].all()
    ]
    reasons = [f"not run: {', '.join(absent)}"] * bool(absent) + [
        f"not the arena's samples: {', '.join(other)}"
    ] * bool(other)
    return f"No mean over the five tasks: {'; '.join(reasons)}."


def _details(summary: pd.DataFrame) -> str:
    """One table per task: interval, steps, cost."""
    tables = []
    for task, rows in summary.groupby("task", sort=False):
        one = set(rows["seeds"]) == {1}
        interval = "95 % interval over test samples" if one else "smallest and largest of the seeds"
        heads = [
            "attention",
            "test accuracy, %",
            interval,
            "seeds",
            "validation, %",
            "steps",
            "CPU hours",
            "CPU s/step",
        ]
        lines = [
            [
                row["attention"],
                _percent(row["accuracy"]),
                f"{row['low']:.1f} to {row['high']:.1f}",
                row["seeds"],
                _percent(row["validation_accuracy"]),
                f"{row['steps']:,}",
                f"{row['cpu_hours']:.2f}",
                f"{row['cpu_seconds_per_step']:.2f}",
                f"{row['peak_mib']:,.0f}",
                f"{row['parameters']:,}",
            ]
            for row in rows.to_dict("records")
        ]
        table = markdown_table([*heads, "peak, MiB", "weights"], lines)
        tables.append(f"**{TASKS[str(task)].title}**: {rows['source'].iloc[0]}\n\n{table}")
    return "\n".join(tables)


def _unfinished(unfinished: Sequence[tuple[Key, dict[str, Any]]]) -> str:
    lines = [
        [
            str(key),
            f"{values['step']:,} of {values['steps']:,}",
            _percent(100 * values["best"]) if values["best"] >= 0 else "",
            f"{values['cpu_seconds'] / 3600:.2f}",
        ]
        for key, values in unfinished
    ]
    heads = ["not finished", "steps", "best validation accuracy so far, %", "CPU hours"]
    return markdown_table(heads, lines)


def _costs(costs: pd.DataFrame) -> str:
    """One table each for training time, inference time and memory."""
    names = {
        "training_seconds": ("Forward and backward, CPU s for 16,384 symbols", ".2f"),
        "inference_seconds": ("Inference, CPU s for 16,384 symbols", ".2f"),
        "training_mib": ("Memory of forward and backward, MiB", ",.0f"),
    }
    tables = []
    for name, (title, form) in names.items():
        if name not in costs:
            continue
        wide = costs.pivot_table(index="attention", columns="length", values=name, sort=False)
        lines = [[attention, *(_known(value, form) for value in values)] for attention, *values in wide.itertuples()]
        tables.append(f"**{title}**\n\n{markdown_table(['length', *(f'{n:,}' for n in wide.columns)], lines)}")
    failed = costs[costs["reason"] != ""]
    reasons = [f"{row.attention} at {row.length:,} symbols: {row.reason}\n" for row in failed.itertuples()]
    return "\n".join([*tables, *reasons])


def _percent(value: float) -> str:
    return _known(value, ".2f")


def _known(value: float, form: str) -> str:
    return "" if math.isnan(value) else f"{value:{form}}"


def plot_curves(path: Path, trials: Mapping[Key, Trial]) -> None:
    """Draw validation accuracy against steps, one panel per task, and the published test accuracies as lines."""
    tasks = [task for task in TASKS if any(key.task == task for key in trials)]
    attentions = list(dict.fromkeys(key.attention for key in sorted(trials)))
    known = published()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.8 + 4.6 * len(tasks), 4), layout="constrained")
        for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
            for key, trial in sorted(trials.items()):
                if key.task == task and trial.progress["curve"]:
                    steps, _, accuracies = zip(*trial.progress["curve"], strict=True)
                    color = COLORS[attentions.index(key.attention) % len(COLORS)]
                    first = key.seed == min(other.seed for other in trials if other[:2] == key[:2])
                    label = key.attention if first else None
                    axes.plot(steps, 100 * np.array(accuracies), color=color, label=label)
            values = known[(known["task"] == task) & (known["method"] == "softmax")]["accuracy"]
            for value in values:
                axes.axhline(value, color="0.6", linewidth=1, linestyle=":")
            axes.set(title=TASKS[task].title, xlabel="steps", ylabel="validation accuracy, %")
            axes.legend(frameon=False)
        if tasks:
            figure.supxlabel("dotted: published test accuracies of softmax", fontsize=9, color="0.4")
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150)


def plot_costs(path: Path, costs: pd.DataFrame, summary: pd.DataFrame) -> None:
    """Draw time and memory by length, and accuracy on ListOps against the time at 2,048 symbols if both are known."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, 4), layout="constrained")
        time, memory, both = figure.subplots(1, 3)
        accuracy = (
            summary[summary["task"] == "listops"].set_index("attention")["accuracy"] if len(summary) else pd.Series()
        )
        for number, (attention, rows) in enumerate(costs.groupby("attention", sort=False)):
            color = COLORS[number % len(COLORS)]
            time.plot(rows["length"], rows["training_seconds"], "o-", markersize=4, color=color, label=attention)
            memory.plot(rows["length"], rows["training_mib"], "o-", markersize=4, color=color)
            at = rows[rows["length"] == 2048]["training_seconds"]
            if len(at) and attention in accuracy:
                both.plot(at.iloc[0], accuracy[attention], "o", color=color)
                both.annotate(str(attention), (at.iloc[0], accuracy[attention]), (5, 4), textcoords="offset points")
        for axes, label in ((time, "CPU s for 16,384 symbols"), (memory, "memory, MiB")):
            axes.set(xlabel="length of a sequence", ylabel=f"forward and backward, {label}")
            logarithmic(axes, sorted(costs["length"].unique()))
            axes.tick_params(axis="x", labelrotation=30)
        both.set(xlabel="forward and backward at 2,048, CPU s", ylabel="ListOps, test accuracy, %")
        time.legend(frameon=False)
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150)
